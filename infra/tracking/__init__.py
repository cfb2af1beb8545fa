"""Runs, adapters and models in MLflow."""
