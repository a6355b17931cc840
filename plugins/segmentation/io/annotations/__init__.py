"""Annotation files: COCO JSON, CVAT for images, LabelMe."""
