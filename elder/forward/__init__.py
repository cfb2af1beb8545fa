"""Running a part of a model: on a cached prefix, on packed rows, above or below a block."""
