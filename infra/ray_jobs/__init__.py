"""Submitting to a Ray cluster and following what runs there."""
