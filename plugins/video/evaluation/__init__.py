"""Scores of clips, pooled and frame by frame."""
