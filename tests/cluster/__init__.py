"""Tests that start real worker groups: Ray, DeepSpeed, processes that are killed."""
