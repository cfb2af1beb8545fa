"""Training of the editors that are networks."""
