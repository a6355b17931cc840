"""The exponential moving average of a network's weights."""

import torch
from torch import Tensor, nn


class Average:
    """w_ema <- d w_ema + (1 - d) w, d = min(decay, (1 + n) / (10 + n)) at update n.

    The rising decay lets short runs forget their initial weights.
    Source: TensorFlow's ExponentialMovingAverage (``num_updates``); Karras et al. 2022,
    arXiv:2206.00364, appendix F.2, ramp theirs up for the same reason.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network's weights; `updates` counts those made before."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        state = network.state_dict()
        names = [name for name, value in self.weights.items() if value.is_floating_point()]
        ours, theirs = [self.weights[n] for n in names], [state[n].detach() for n in names]
        for mine, other in zip(ours, theirs, strict=True):
            mine.lerp_(other, 1 - decay)
        for name in self.weights.keys() - names:
            self.weights[name].copy_(state[name])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
