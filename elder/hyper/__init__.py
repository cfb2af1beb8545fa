"""Editors that turn gradients into weight changes: factors, hyper-networks, aggregation, meta-training."""
