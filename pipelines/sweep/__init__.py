"""A search of training options."""
