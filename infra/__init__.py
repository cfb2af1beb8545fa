"""The outside world behind the protocols of `pipelines.protocols`: stores, tracking, clusters, checks."""
