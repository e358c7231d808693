"""Measurements of the head and of training steps that users run on their own machines."""
