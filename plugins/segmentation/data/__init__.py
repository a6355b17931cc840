"""Images with labels: folders, annotation files, scenes of digits."""
