"""Keys and values for weight editors: subjects, contexts, statistics, and values found by optimisation."""
