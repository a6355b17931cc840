"""What a pixel classifier reads: maps of a diffusion model, of a transformer, of filters."""
