"""The checks of `elder doctor`."""
