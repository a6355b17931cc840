"""Datasets of slices: phantoms, folders of scans, public sets."""
