"""What is measured of an image: reduction, luma, JPEG coefficients."""
