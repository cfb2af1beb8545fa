"""Golden numbers: what a small stream of edits ends in under every method, kept in a file."""
