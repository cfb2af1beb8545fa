"""The scripts and the notebook in examples/, run."""
