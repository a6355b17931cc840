"""Masks in and out: numbers, colours and names of classes."""
