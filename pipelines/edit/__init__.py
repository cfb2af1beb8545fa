"""The main job: a stream of edits in, a committed, measured and registered adapter out."""
