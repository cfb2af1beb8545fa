"""Editors that add a mixture of low-rank maps behind a gate: ELDER and ours."""
