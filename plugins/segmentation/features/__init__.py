"""Features of images: maps of a diffusion model, of filters."""
