"""The implementations of the protocols of `pipelines.protocols`: stores, tracking, clusters, checks."""
