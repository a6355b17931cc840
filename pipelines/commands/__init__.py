"""The commands of `polymode` for jobs; the options that they share."""
