"""Displays and pages in a terminal."""
