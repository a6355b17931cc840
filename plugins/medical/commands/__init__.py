"""The commands of ``polymode medical``."""
