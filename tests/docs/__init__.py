"""What the pages under docs/ promise, as far as a machine can check it."""
