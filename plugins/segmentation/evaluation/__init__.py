"""Scores of masks: confusion, intersection over union, average precision of instances."""
