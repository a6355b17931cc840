"""The commands of ``polymode image2image``: one file each, options apart."""
