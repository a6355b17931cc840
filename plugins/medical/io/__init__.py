"""Files of scans and of raw data, read and written."""
