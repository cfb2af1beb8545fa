"""Dry runs: stages, keys and memory of a config, before anything is started."""
