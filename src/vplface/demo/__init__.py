"""A page on this machine: compare two pictures, enrol people, look for them, read the report of the training."""
