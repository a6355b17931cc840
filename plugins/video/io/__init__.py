"""Clips in and out: video files, animations and folders of frames."""
