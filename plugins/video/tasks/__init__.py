"""What is learned, scored and shown, and the classical methods beside it."""
