"""From a trained model and a user's clip to a result."""
