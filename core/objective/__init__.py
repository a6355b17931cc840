"""What is minimised: losses, weights of noise levels, training times."""
