"""Pretrained weights in and out; nothing is unpickled in this process."""
