"""The null of every condition: one for training and guidance, told apart from every value."""

import pytest
import torch
from torch import nn

from core.denoiser.guidance import classifier_free
from core.denoiser.parameterization import NetworkDenoiser
from core.denoiser.parameterization import x0 as x0_row
from core.errors import InputError
from core.network.conditioning import NullCondition, null_condition, takes_null
from core.network.transformer import Transformer
from core.network.unet import UNet
from core.process import schedules
from core.testing.distributions import Mixture

CONDITIONS = {"image": 2, "class": 3, "vector": 4, "sequence": 5}
SMALL = {
    UNet: {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "heads": 1},
    Transformer: {"width": 16, "depth": 1, "heads": 2, "patch": 2},
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(build, kind):
    """A network whose zero layers, and learned nulls, are not zero."""
    made = build(1, 1, CONDITIONS, null=kind, **SMALL[build]).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def given(seed=0):
    return {
        "image": normal(4, 2, 8, 8, seed=seed),
        "class": torch.tensor([0, 1, 2, 0]),
        "vector": normal(4, 4, seed=seed + 1),
        "sequence": normal(4, 3, 5, seed=seed + 2),
    }


@pytest.mark.parametrize("kind", ["zero", "learned"])
@pytest.mark.parametrize("build", SMALL)
@torch.no_grad()
def test_samples_without_condition_do_not_depend_on_it_and_the_others_stay(build, kind):
    made, condition = network(build, kind), given()
    x, level = normal(1, 1, 8, 8, seed=9).expand(4, -1, -1, -1), torch.full((4,), 7.0)
    plain = made(x, level, condition)
    dropped = torch.tensor([True, False, True, True])
    found = made(x, level, null_condition(condition, dropped))
    assert torch.equal(found[1], plain[1])
    # One x and one level: three samples without condition are one output, whatever was given.
    assert (found[[2, 3]] - found[0]).abs().max() < 1e-6
    assert (found - plain)[dropped].abs().amax((1, 2, 3)).min() > 1e-3  # of class 0 too
    other = made(x, level, null_condition(given(seed=5), dropped))
    assert (other - found)[dropped].abs().max() < 1e-6


@pytest.mark.parametrize("build", SMALL)
@torch.no_grad()
def test_zero_nulls_are_zeros_and_learned_ones_their_vectors_at_every_position(build):
    x, level, condition = normal(4, 1, 8, 8, seed=9), torch.full((4,), 7.0), given()
    made = network(build, "zero")
    written = {name: torch.zeros_like(value) for name, value in condition.items()}
    written["class"] = torch.full((4,), 3)  # one behind the classes 0, 1, 2
    found = made(x, level, null_condition(condition))
    assert torch.equal(found, made(x, level, written))
    made = network(build, "learned")
    learned = dict(made.null_condition.learned)
    written["image"] = learned["image"].view(1, 2, 1, 1).expand(4, 2, 8, 8)
    written["vector"] = learned["vector"].expand(4, 4)
    written["sequence"] = learned["sequence"].expand(4, 3, 5)
    found = made(x, level, null_condition(condition))
    assert torch.equal(found, made(x, level, written))


def test_learned_nulls_are_trained_where_samples_are_dropped_and_nowhere_else():
    made, level = network(UNet, "learned"), torch.full((4,), 7.0)
    dropped = torch.tensor([True, False, True, False])
    made(normal(4, 1, 8, 8), level, null_condition(given(), dropped)).square().sum().backward()
    for name in ("image", "vector", "sequence"):
        assert made.null_condition.learned[name].grad.abs().min() > 0
    rows = made.condition_embedding.label.weight.grad.abs().amax(1)
    # Classes 1 and 0 are kept (samples 1 and 3), 0 and 2 dropped: row 2 is not used, row 3 is.
    assert (rows > 0).tolist() == [True, True, False, True]


def test_marks_add_up_and_nothing_is_marked_where_there_is_nothing_to_drop():
    condition = {"class": torch.tensor([0, 1, 2])}
    once = null_condition(condition, torch.tensor([True, False, False]))
    twice = null_condition(once, torch.tensor([False, False, True]))
    assert twice["null"].tolist() == [True, False, True]
    assert null_condition(twice)["null"].all()
    assert null_condition(None) == null_condition({}) == {}
    assert takes_null(UNet(1, 1, {}, width=8, multipliers=(1,), attention=()))
    assert not takes_null(nn.Linear(1, 1))
    with pytest.raises(InputError, match="requires a condition named 'class'; got image"):
        NullCondition({"class": 2}, "zero")({"image": normal(1, 1, 2)})


# --- a mixture of two classes ------------------------------------------------------------------

MEANS = torch.tensor([[-1.0, 0.4], [0.7, 0.9]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.35, 0.65], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.6], dtype=torch.float64)
WORLD = Mixture(MEANS, STDS[:, None].expand(2, 2), WEIGHTS)
PROCESS = schedules.edm()


class Exact(nn.Module):
    """The exact network of the mixture: a row of answers for each class, and one for no class."""

    def __init__(self):
        super().__init__()
        self.null_condition = NullCondition({"class": 2}, "zero")
        self.rows = [WORLD.component(PROCESS, 0), WORLD.component(PROCESS, 1)]
        self.rows.append(WORLD.denoiser(PROCESS))

    def forward(self, x, level, condition=None):
        label = self.null_condition(condition)["class"]
        t = (-level / 25 / 2).exp()  # level is 25 log-SNR, and log-SNR -2 log t
        answers = torch.stack([row(x, t, None).x0 for row in self.rows])
        return answers[label, torch.arange(len(x))]


def guided_score(x, sigma, label, scale):
    """Gradient of (1 - scale) log p(x) + scale log p(x | c), written out by torch.distributions."""
    x = x.clone().requires_grad_()
    deviation = (STDS**2 + sigma[:, None] ** 2).sqrt()[..., None]
    parts = torch.distributions.Normal(MEANS, deviation).log_prob(x[:, None]).sum(-1)  # b k
    whole = (WEIGHTS.log() + parts).logsumexp(1)
    tilted = (1 - scale) * whole + scale * parts[torch.arange(len(x)), label]
    return torch.autograd.grad(tilted.sum(), x)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 6.0])
def test_guidance_by_the_null_condition_is_exact_for_every_class(scale):
    """Ho and Salimans' eq. 6 for classes 0 and 1, at levels from the data's to far above them."""
    denoise = NetworkDenoiser(Exact(), PROCESS, x0_row())
    sigma = torch.tensor([0.05, 0.5, 2.0, 20.0], dtype=torch.float64).repeat(2)
    label = torch.tensor([0] * 4 + [1] * 4)
    x = sigma[:, None] * normal(8, 2).double()
    guided = classifier_free(denoise, null_condition, scale=scale)
    found = (guided(x, sigma, {"class": label}).x0 - x) / sigma[:, None] ** 2
    expected = guided_score(x, sigma, label, scale)
    # x0 is exact to 1e-15; the score divides by sigma^2 = 2.5e-3.
    assert (found - expected).abs().max() < 1e-9
