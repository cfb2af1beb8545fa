"""Editors that add a gated mixture of low-rank maps: ELDER and ours."""
