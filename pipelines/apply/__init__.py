"""A predictor applied to every file in a folder."""
