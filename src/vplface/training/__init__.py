"""Training of a face embedding: data, networks and schedule of a run, its steps, and its files."""
