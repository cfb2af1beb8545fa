"""A run: its stages, commits, results and what publishes them. Knows neither Ray nor DeepSpeed."""
