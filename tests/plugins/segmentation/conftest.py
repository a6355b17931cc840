"""A prior of a few steps, for every module of these tests."""

import pytest

from core.parts.registry import Spec
from core.request import Machine, TrainRequest


@pytest.fixture(scope="package")
def prior(tmp_path_factory):
    """A network of a few steps on digits: what it knows is little, what is read of it is not."""
    from core.runs import train

    network = {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [],
               "middle_attention": False, "patch": 2}  # fmt: skip
    request = TrainRequest(
        task=Spec("core/generate", {"channels": 1}),
        dataset=Spec("image2image/digits"),
        network=Spec("core/unet", network),
        process=Spec("core/vp_linear"),
        steps=4,
        batch=4,
    )
    folder = tmp_path_factory.mktemp("prior")
    train(request, folder, machine=Machine(threads=1))
    return folder
