"""``polymode image2image``: commands for images; ``python -m plugins.image2image`` too."""

from core.commands import domain, run_app
from plugins.image2image.commands import (
    choose,
    compare,
    edit,
    guide,
    purify,
    repaint,
    restore,
    upscale,
)

app = domain(
    "Super-resolution, restoration, editing and purification of your own images.",
    choose.choose, compare.compare, edit.edit, guide.guide, purify.purify, repaint.repaint,
    restore.restore, upscale.upscale,
)  # fmt: skip

if __name__ == "__main__":
    run_app(app)
