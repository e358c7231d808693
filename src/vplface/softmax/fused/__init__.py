"""A training step over all classes in a fixed number of launches, on a GPU."""
