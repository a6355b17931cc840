"""``polymode image2image``: commands for images; ``python -m plugins.image2image`` too."""

from core.commands import domain, run_app
from plugins.image2image.commands import compare, edit, purify, restore

app = domain("Your own images enlarged, restored, edited, completed and purified.")
for command in (
    compare.compare, edit.edit, edit.guide, purify.purify, edit.repaint, restore.restore,
    restore.upscale,
):  # fmt: skip
    app.command()(command)

if __name__ == "__main__":
    run_app(app)
