"""What `elder doctor` checks."""
