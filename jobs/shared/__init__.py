"""What several commands need: options, wiring, checks of the input."""
