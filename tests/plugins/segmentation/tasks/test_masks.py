"""A plain network: its loss and scores by other programs, and what it learns of digits."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, jaccard_score

from core import runs
from core.denoiser import parameterization
from core.errors import InputError
from core.objective import times, weighting
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.request import EvaluateRequest, Machine, SampleRequest, TrainRequest
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.tasks.brier import Brier
from plugins.segmentation.tasks.masks import Masks

NAMES = ("paper", "ink", "stain")


class Constant(torch.nn.Module):
    """The same output whatever the input, which is kept."""

    def __init__(self, output):
        super().__init__()
        self.output, self.seen = output, None

    def forward(self, x, level, condition):
        self.seen = x
        return self.output


def batch_of(labels):
    return {"image": torch.rand(len(labels), 3, *labels.shape[1:]) * 2 - 1, "labels": labels}


def test_the_loss_is_scikit_learns_brier_score_over_the_labelled_pixels():
    labels = torch.randint(0, 3, (2, 5, 4))
    labels[0, :2] = 255
    example = Masks(classes=NAMES).prepare(batch_of(labels))
    process = configure("process", Spec("core/vp_linear"))()
    objective = Brier(process, parameterization.x0(), weighting.simple, times.uniform)
    eps = torch.randn_like(example.x0)
    p = torch.rand_like(example.x0).softmax(1)
    network = Constant(2 * p - 1)
    draw = objective.draw(example.x0, Noise([1, 2]))
    found = objective.loss(network, example.x0, draw.t, eps, example.condition, example.mask)
    for k in range(2):
        known = labels[k] != 255
        each = [
            brier_score_loss((labels[k] == c)[known], p[k, c][known]) for c in range(len(NAMES))
        ]
        assert float(found[k]) == pytest.approx(4 * float(np.mean(each)), rel=1e-5)  # of 2 p - 1
    # The network is not given the labels: its input is the noise alone.
    assert torch.corrcoef(torch.stack([network.seen.flatten(), eps.flatten()]))[0, 1] > 1 - 1e-6


def test_scores_are_scikit_learns_and_unlabelled_pixels_do_not_count():
    draw = np.random.default_rng(0)
    truth, found = draw.integers(0, 3, (2, 2, 6, 7))
    truth[0, 0] = 255
    scores = Masks(classes=NAMES).score(
        torch.from_numpy(found).float()[:, None], batch_of(torch.from_numpy(truth))
    )
    for k in range(2):
        known = truth[k] != 255
        each = jaccard_score(truth[k][known], found[k][known], average="macro")
        figures = scores["network"].figures
        assert float(figures["miou"][k]) == pytest.approx(each, rel=1e-6)
        right = (truth[k] == found[k])[known].mean()
        assert float(figures["accuracy"][k]) == pytest.approx(right, rel=1e-6)


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(InputError, match="3 is beyond the 3 classes"):
        Masks(classes=NAMES).prepare(batch_of(torch.full((1, 2, 2), 3)))
    with pytest.raises(InputError, match="two or more different names"):
        Masks(classes=("a", "a"))


@pytest.mark.slow
def test_a_plain_network_learns_digits_and_serves_as_a_classifier(tmp_path):
    classes = ["paper", "one"]
    dataset = {"name": "segmentation/digits_scene", "size": 32, "digits": [1], "count": 400}
    request = {
        "task": {"name": "segmentation/masks", "classes": classes}, "dataset": dataset,
        "network": {"name": "core/unet", "width": 8, "multipliers": [1, 2], "blocks": 1,
                    "attention": [], "middle_attention": False},
        "process": "core/vp_linear", "parameterization": "core/x0",
        "objective": "segmentation/brier", "steps": 150, "batch": 8, "lr": 3e-3,
        "warmup": 10, "ema": 0.9,
    }  # fmt: skip
    trained = runs.train(bind(TrainRequest, request), tmp_path / "run", machine=Machine(threads=1))
    assert trained.loss < 0.2
    grid = Spec("core/uniform_time", {"steps": 1})
    drawn = runs.sample(
        SampleRequest(checkpoint=trained.checkpoint, count=8, sampler=Spec("core/ddim"), grid=grid),
        tmp_path / "drawn",
    )
    scored = runs.evaluate(EvaluateRequest(samples=drawn.samples), tmp_path / "scores")
    found = scored.scores
    assert found["network"]["miou"] > found["first class everywhere"]["miou"] + 0.2
    classifier = load(tmp_path / "run", Machine(threads=1))
    items = configure("dataset", bind(TrainRequest, request).dataset)("test")
    item = items[0]
    labels = classifier(item["image"]).labels
    assert classifier.classes.names == tuple(classes)
    assert (labels.long() == item["labels"]).float().mean() > 0.9
