"""The `pyproject.toml` of a stranger's plug-in."""

STRAY = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "polymode-stray"
version = "1.0"
[project.entry-points."polymode.plugins"]
stray = "stray:PLUGIN"
[tool.setuptools]
packages = ["stray"]
"""
