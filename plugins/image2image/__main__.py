"""``polymode image2image``: commands for photographs; ``python -m plugins.image2image`` too."""

from typing import NoReturn

from core.cli import commands, run_app
from plugins.image2image.compare_command import compare
from plugins.image2image.editing_commands import edit, guide, repaint
from plugins.image2image.purify_command import purify
from plugins.image2image.restore_command import restore, upscale

app = commands("Your own photographs made larger, restored, edited, completed and purified.")

app.command()(compare)
app.command()(edit)
app.command()(guide)
app.command()(purify)
app.command()(repaint)


app.command()(restore)
app.command()(upscale)


def main() -> NoReturn:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
