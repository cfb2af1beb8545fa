"""What every method must beat: looking edits up, telling them to the model in its prompt, and plain fine-tuning."""
