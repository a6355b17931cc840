"""From a trained prior and a measurement to draws, and to results in a file."""
