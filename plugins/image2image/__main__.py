"""``polymode image2image``: commands for images; ``python -m plugins.image2image`` too."""

from core.commands import domain, run_app, with_options
from plugins.image2image.commands import (
    choose,
    compare,
    edit,
    guide,
    purify,
    repaint,
    restore,
    score,
    upscale,
)

app = domain(
    "Super-resolution, restoration, editing and purification of your own images.",
    choose.choose, restore.colourise, compare.compare, edit.edit, guide.guide, restore.inpaint,
    purify.purify, repaint.repaint, restore.restore, restore.restore_jpeg, score.score,
    restore.uncrop, upscale.upscale,
)  # fmt: skip
app.command("colorize", hidden=True)(with_options(restore.colourise))

if __name__ == "__main__":
    run_app(app)
