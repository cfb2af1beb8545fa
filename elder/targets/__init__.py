"""What a weight editor writes and where: subjects, context prefixes, keys, and values found by optimisation."""
