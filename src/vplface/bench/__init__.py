"""Measurements of speed and memory: every such figure in the documentation comes from here."""
