"""The ensemble, against torch's own layers."""

import pytest
import torch
from torch import nn

from plugins.segmentation.heads import mlp
from plugins.segmentation.heads.mlp import _divided
from plugins.segmentation.heads.pixels import Pixels


def circles(count=800, seed=0):
    """Two classes that a line does not part: inside and outside a circle, off-centre and scaled."""
    draw = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(count, 2, generator=draw) - 1
    labels = (x.square().sum(1) < 0.5).long()
    fold = torch.randint(5, (count,), generator=draw)
    return Pixels(x * torch.tensor([100.0, 0.01]) + 7, labels, fold, 2)


def as_torch(ensemble, member):
    """A member as torch's own layers."""
    t = {name: value[member] for name, value in ensemble.tensors.items()}
    layers = []
    for i in range(3):
        linear = nn.Linear(t[f"weight{i}"].shape[1], t[f"weight{i}"].shape[0])
        linear.load_state_dict({"weight": t[f"weight{i}"], "bias": t[f"bias{i}"]})
        layers.append(linear)
        if i < 2:
            norm = nn.BatchNorm1d(len(t[f"mean{i}"]))
            norm.load_state_dict(
                {
                    "weight": t[f"scale{i}"], "bias": t[f"shift{i}"], "running_mean": t[f"mean{i}"],
                    "running_var": t[f"variance{i}"], "num_batches_tracked": torch.tensor(1),
                }
            )  # fmt: skip
            layers += [nn.ReLU(), norm]
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
def test_members_are_what_torchs_layers_compute():
    pixels = circles()
    ensemble, _ = mlp.fit(pixels, members=3, most=50)
    weight, bias = ensemble.first
    logits = ensemble.after_first(pixels.features @ weight.T + bias)
    assert logits.shape == (3, 800, 2)
    for member in range(3):
        with torch.no_grad():
            expected = as_torch(ensemble, member)(pixels.features)
        torch.testing.assert_close(logits[member], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_what_no_line_parts_is_learned_and_the_best_is_kept():
    ensemble, how = mlp.fit(circles(), members=4)
    test = circles(seed=1)
    weight, bias = ensemble.first
    found = ensemble.after_first(test.features @ weight.T + bias).argmax(-1)
    wrong = (found != test.labels).float().mean(1)
    assert wrong.max() < 0.05  # the larger class alone would be wrong in 0.39
    assert how.loss < 0.15


@pytest.mark.slow
def test_held_out_pixels_stop_it_where_labels_are_noise():
    pixels = circles(300)
    flipped = torch.rand(300, generator=torch.Generator().manual_seed(5)) < 0.3
    noisy = pixels._replace(labels=torch.where(flipped, 1 - pixels.labels, pixels.labels))
    _, how = mlp.fit(noisy, members=2)
    assert how.steps < 1500  # all 3000 would learn the noise by heart
    assert 0.5 < how.loss < 0.75  # of labels of which 30 % are wrong: 0.61 at best


def test_each_member_is_stopped_by_a_fold_that_it_does_not_learn_from():
    fold = torch.tensor([0, 1, 2, 3, 4, -1]).repeat(7)
    learned, held = _divided(fold, 7, torch.Generator().manual_seed(0))
    for member in range(7):
        own = held.at[member][held.own[member]]
        assert sorted(own.tolist()) == torch.nonzero(fold == member % 5)[:, 0].tolist()
        assert set(learned.at[member].tolist()) == set(range(42)) - set(own.tolist())


def test_repetitions_of_a_short_row_are_not_its_own():
    part = mlp._Part.of([torch.arange(2), torch.arange(5)])
    assert part.own.sum(1).tolist() == [2, 5]
    drawn = part.drawn(4000, torch.Generator().manual_seed(0))
    for row, count in zip(drawn, (2, 5), strict=True):
        shares = torch.bincount(row, minlength=count) / 4000
        assert shares.tolist() == pytest.approx([1 / count] * count, abs=0.03)


def test_a_seed_gives_the_same_ensemble_and_members_differ():
    one, again, other = (mlp.fit(circles(300), members=2, most=25, seed=s)[0] for s in (0, 0, 1))
    assert all(torch.equal(one.tensors[name], again.tensors[name]) for name in one.tensors)
    assert not torch.equal(one.tensors["weight0"], other.tensors["weight0"])
    assert not torch.equal(one.tensors["weight0"][0], one.tensors["weight0"][1])


@pytest.mark.parametrize(("classes", "hidden"), [(2, (128, 32)), (29, (128, 32)), (30, (256, 128))])
def test_sizes_are_the_papers(classes, hidden):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    pixels = Pixels(
        torch.randn(60, 5, generator=draw), labels, torch.full_like(labels, -1), classes
    )
    ensemble, _ = mlp.fit(pixels, members=1, most=25)
    shapes = [tuple(ensemble.tensors[f"weight{i}"].shape[1:]) for i in range(3)]
    assert shapes == [(hidden[0], 5), (hidden[1], hidden[0]), (classes, hidden[1])]
