"""Results of steps, found again by what they were made from."""
