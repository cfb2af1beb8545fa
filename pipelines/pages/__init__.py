"""Pages that people read after a run: tables, plots, HTML. Knows nothing of runs."""
