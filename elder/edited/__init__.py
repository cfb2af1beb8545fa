"""An edited model as transformers knows models: generate, save, copy, move. Knows nothing of how edits are found."""
