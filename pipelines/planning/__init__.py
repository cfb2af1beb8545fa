"""What a config would do and need, before anything is started."""
