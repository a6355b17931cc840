"""``python -m core``: the core's commands."""

from core.cli import main

main()
