"""Comparisons and studies: many runs, one report."""
