"""Commands of the plug-in."""
