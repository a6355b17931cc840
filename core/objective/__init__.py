"""Objectives: losses, weightings of noise levels, distributions of training times."""
