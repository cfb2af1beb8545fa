"""Hyper-parameter search: many runs, one objective."""
