"""Editors that turn gradients into changes of weights: UltraEdit, MEND, MALMEN."""
