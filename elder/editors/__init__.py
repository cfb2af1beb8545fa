"""The editing methods, one to a file, behind the `Editor` protocol of `base.py`."""
