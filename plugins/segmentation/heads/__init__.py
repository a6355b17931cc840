"""Pixel classifiers on features at several resolutions, without the upsampled tensor."""
