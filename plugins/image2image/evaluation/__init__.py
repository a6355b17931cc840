"""Verbs that compare sets of images and attack classifiers."""
