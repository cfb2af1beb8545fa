"""Commands that work with a cluster elsewhere."""
