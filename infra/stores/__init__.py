"""Where files are kept: a directory or S3."""
