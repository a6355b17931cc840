"""A job as it is written, checked, and planned; starts nothing."""
