"""``polymode video``: commands for clips; ``python -m plugins.video`` too."""

from core.commands import domain, run_app
from plugins.video.commands.compare import compare
from plugins.video.commands.completing import fill, generate, interpolate, predict
from plugins.video.commands.info import info

app = domain(
    "Prediction, interpolation and generation of video.",
    predict, interpolate, fill, generate, info, compare,
)  # fmt: skip

if __name__ == "__main__":
    run_app(app)
