"""The `elder` command line: parse, wire the parts together, call a pipeline, print. One file for each verb."""
