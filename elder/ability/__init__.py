"""General ability: tasks that have nothing to do with the edits, asked of a model before and after them."""
