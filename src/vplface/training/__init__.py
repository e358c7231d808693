"""Batches → model."""
