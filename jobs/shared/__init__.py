"""Shared by several commands: options, wiring, checks of the input."""
