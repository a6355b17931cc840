"""Frechet and kernel distances against torchmetrics', on features given to both."""

import pytest
import torch

from core.results.distances import block_distances, frechet, kernel_distance

pytestmark = pytest.mark.parity
fid, kid = (
    pytest.importorskip(f"torchmetrics.image.{name}", reason="the extra `parity` brings it")
    for name in ("fid", "kid")
)


class Given(torch.nn.Module):
    """Features are what it is given."""

    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def sets(n=120, m=90, d=8):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=draw) @ torch.randn(d, d, generator=draw)
    return a.double(), (0.5 + 1.5 * torch.randn(m, d, generator=draw)).double()


def test_frechet(agree):
    a, b = sets()
    theirs = fid.FrechetInceptionDistance(feature=Given(), input_img_size=(8,)).double()
    theirs.set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    known = theirs.compute()
    agree("`frechet` and torchmetrics' FID", "120 and 90 items of 8 features",
          torch.tensor([frechet(a, b)]), known[None], 1e-6)  # fmt: skip


@pytest.mark.parametrize("size", [90, 30])
def test_kernel(agree, size):
    a, b = sets()
    theirs = kid.KernelInceptionDistance(feature=Given(), subsets=2000, subset_size=size)
    theirs.set_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)  # theirs draws from the global stream
        theirs.update(a[:90], real=True)
        theirs.update(b, real=False)
        mean, deviation = theirs.compute()
    ours = block_distances(a[:90], b, size=size, blocks=2000)
    name = "`block_distances` and torchmetrics' KID"
    if size == 90:  # the whole sets: no draw is left
        known = torch.tensor([kernel_distance(a[:90], b)])
        agree(name, "90 of 90 items", known, mean[None], 1e-6)
        return
    assert float(deviation) == pytest.approx(ours.std(), rel=0.15)
    within = 5 * float(deviation / mean) * (2 / 2000) ** 0.5
    agree(name, "30 of 90 items, 2000 blocks", torch.tensor([ours.mean()]), mean[None], within)
