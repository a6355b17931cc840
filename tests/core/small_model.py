"""The smallest model that every verb takes: one step of a narrow network on blank images."""

from pathlib import Path

from core.parts.registry import Spec
from core.request import SampleRequest, TrainRequest
from core.runs import sample, train

NETWORK = Spec("core/unet", {"width": 8, "multipliers": [1], "blocks": 1, "attention": []})


def train_request(*, classes: int = 0, data_classes: int = 0, **options) -> TrainRequest:
    """One step on blank images of 8 x 8 pixels."""
    return TrainRequest(
        task=Spec("core/generate", {"channels": 1, "classes": classes}),
        dataset=Spec(
            "core/blank",
            {"shape": [1, 8, 8], "count": 4, "classes": data_classes, **options.pop("data", {})},
        ),
        network=NETWORK,
        **{"steps": 1, "batch": 2, "warmup": 0, **options},
    )


def trained(out: Path, **options) -> Path:
    """The folder of a run of `train_request`."""
    train(train_request(**options), out)
    return out


def sample_request(checkpoint: Path, **options) -> SampleRequest:
    """Two draws by two steps of DDIM."""
    settings = {
        "sampler": Spec("core/ddim"),
        "grid": Spec("core/uniform_log_snr", {"steps": 2}),
        "count": 2,
        **options,
    }
    return SampleRequest(checkpoint=checkpoint, **settings)


def sampled(checkpoint: Path, out: Path, **options) -> Path:
    """The folder of `sample_request`'s samples."""
    sample(sample_request(checkpoint, **options), out)
    return out
