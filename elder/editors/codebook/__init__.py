"""Methods that look the prompt up among stored keys."""
