"""Files of images: reading and writing with depth, alpha, colour profile and EXIF."""
