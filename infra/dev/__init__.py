"""Local services for development: MLflow and an S3 server."""
