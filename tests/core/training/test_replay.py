"""Which calls of a network a recorded graph replays; the recorder here needs no GPU.

The recorder keeps what a CUDA graph keeps: the memory of its inputs and of its output, which every
call uses again.  `tests/core/test_gpu.py` records in earnest.
"""

import pytest
import torch
from torch import nn

from core.training.replay import Replay


class Twice(nn.Module):
    """x w + level + image: enough to tell whose inputs were used."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, x, level, condition=None):
        self.calls += 1
        return self.dropout(x * self.w + level.view(-1, 1, 1) + (condition or {}).get("image", 0))


@pytest.fixture
def recorded(monkeypatch):
    """The shapes recorded so far; recording replaces `forward`, as torch's does."""
    shapes = []

    def record(module, samples, **_):
        shapes.append(tuple(sample.shape for sample in samples))
        run, kept = module.forward, {}

        def replayed(*values):
            for sample, value in zip(samples, values, strict=True):
                sample.copy_(value)
            out = run(*samples)
            kept.setdefault("out", torch.empty_like(out)).copy_(out.detach())
            return kept["out"] + 0 * out  # gradients of `out`, the memory of the first call

        module.forward = replayed
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return shapes


def inputs(b=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(b, 1, 4, generator=draw), torch.rand(b, generator=draw)


def test_each_shape_is_recorded_once_and_replayed_with_new_values(recorded):
    network, notes = Twice(), []
    replay = Replay(network, notes.append)
    for seed, b in [(1, 3), (2, 3), (3, 2), (4, 3)]:
        x, level = inputs(b, seed)
        image = torch.full((b, 1, 4), float(seed))
        found = replay.next_step()(x, level, {"image": image})
        expected = x * 2 + level.view(-1, 1, 1) + seed
        torch.testing.assert_close(found, expected)
    assert [shapes[0][0] for shapes in recorded] == [3, 2]
    assert not notes


def test_an_output_outlives_the_next_replay(recorded):
    replay = Replay(Twice(), print)
    first = replay.next_step()(*inputs(seed=1)).detach()
    before = first.clone()
    replay.next_step()(*inputs(seed=2))
    torch.testing.assert_close(first, before, rtol=0, atol=0)


def test_only_the_first_call_of_a_step_is_replayed(recorded):
    """The second one would overwrite the activations that the first one's gradient requires."""
    network = Twice()
    replay = Replay(network, print).next_step()
    replay(*inputs())
    replay(*inputs(b=5))
    assert len(recorded) == 1
    replay.next_step()(*inputs(b=5))
    assert len(recorded) == 2


@pytest.mark.parametrize("why", ["no gradients", "gradients of the input", "dropout"])
def test_other_calls_are_the_networks_own(recorded, why):
    replay = Replay(Twice(dropout=0.5 if why == "dropout" else 0.0), print).next_step()
    x, level = inputs()
    with torch.set_grad_enabled(why != "no gradients"):
        replay(x.requires_grad_(why == "gradients of the input"), level)
    assert not recorded


def test_a_network_that_cannot_be_recorded_is_noted_once(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    notes = []
    replay = Replay(Twice(), notes.append)
    for _ in range(2):
        x, level = inputs()
        torch.testing.assert_close(replay.next_step()(x, level), x * 2 + level.view(-1, 1, 1))
    assert notes == [
        "the network is computed without CUDA graphs, which failed: operation not permitted when "
        "stream is capturing"
    ]
