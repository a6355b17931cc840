"""The diffusion core that every plug-in shares."""
