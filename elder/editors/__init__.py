"""The editing methods, one a file; all fulfil the `Editor` protocol of `elder/base.py`."""
