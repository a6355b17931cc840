"""The five plug-ins; each is a table of contents in its `__init__`."""
