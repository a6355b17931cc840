"""Reconstruction as tasks, and the classical methods it is compared with."""
