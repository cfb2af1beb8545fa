"""The drivers: a lifelong edit run as a sequence of stages, its plan, its state and its report."""
