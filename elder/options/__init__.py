"""Declaring and checking the options of methods. Imports no torch."""
