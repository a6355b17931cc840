"""Models and features of a few steps, for the tests of several rooms."""

import pytest

from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from plugins.image2image.evaluation import classifier
from plugins.image2image.evaluation.features import learned
from plugins.image2image.request import ClassifierRequest

SMALL = ClassifierRequest(width=4, steps=40)
PHOTOS = Spec("image2image/photos", {"size": 16, "patches": 512})


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return classifier.train(SMALL, tmp_path_factory.mktemp("judge"), machine=Machine(threads=1))


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A network of a few steps: what it draws is poor, what is counted with it is not."""
    from core.runs import train

    request = TrainRequest(
        task=Spec("core/generate", {"channels": 1}),
        dataset=Spec("image2image/digits"),
        network=Spec("core/unet", {"width": 8, "multipliers": [1], "blocks": 1, "attention": [],
                                   "middle_attention": False}),
        process=Spec("core/vp_linear"),
        steps=4,
        batch=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("prior")
    train(request, folder, machine=Machine(threads=1))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A module's own folder of caches."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("caches")
        patched.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def extractor(place):
    return learned(PHOTOS, steps=60, seed=0)
