"""Datasets: index -> item."""
