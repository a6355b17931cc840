"""What a network means: every denoiser returns an estimate of the clean sample."""
