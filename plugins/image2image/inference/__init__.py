"""From a trained model and an image file to a result."""
