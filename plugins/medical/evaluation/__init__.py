"""Verbs that compare posterior samplers and look for memorised slices."""
