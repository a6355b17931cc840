"""Denoisers: from a network's output to an estimate of the clean sample, and guidance of it."""
