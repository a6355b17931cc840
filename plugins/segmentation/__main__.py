"""``polymode segmentation``: commands for images; ``python -m plugins.segmentation`` too."""

from core.commands import domain, run_app
from plugins.segmentation.commands.choose import choose
from plugins.segmentation.commands.classify import evaluate, fit, predict
from plugins.segmentation.commands.generate import generate
from plugins.segmentation.commands.label import label, suggest
from plugins.segmentation.commands.prior import train_prior

app = domain(
    "Segmentation of your own images from a handful of labelled ones.",
    train_prior, label, choose, fit, predict, suggest, generate, evaluate,
)  # fmt: skip

if __name__ == "__main__":
    run_app(app)
