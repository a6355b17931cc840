"""Frames completed without a model: copied, averaged, blended."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Clips = Float[Tensor, " b c t h w"]


def _gathered(clip: Clips, frames: Int64[Tensor, " b t"]) -> Clips:
    return clip.gather(2, frames[:, None, :, None, None].expand_as(clip))


def _neighbours(
    known: Bool[Tensor, " b t"],
) -> tuple[
    Int64[Tensor, " b t"], Int64[Tensor, " b t"], Bool[Tensor, " b t"], Bool[Tensor, " b t"]
]:
    """The last known frame up to each and the first from it on, and whether there are such."""
    places = torch.arange(known.shape[1], device=known.device).expand_as(known)
    before = torch.where(known, places, -1).cummax(1).values
    behind = torch.where(known, places, known.shape[1]).flip(1).cummin(1).values.flip(1)
    has_before, has_behind = before >= 0, behind < known.shape[1]
    return before.clamp(min=0), behind.clamp(max=known.shape[1] - 1), has_before, has_behind


def copied(clip: Clips, known: Bool[Tensor, " b t"], times: Float[Tensor, " b t"]) -> Clips:
    """Each frame is the known one nearest in time; mid-grey where none is known."""
    before, behind, has_before, has_behind = _neighbours(known)
    back = (times - times.gather(1, before)).where(has_before, torch.inf)
    ahead = (times.gather(1, behind) - times).where(has_behind, torch.inf)
    found = _gathered(clip, torch.where(back <= ahead, before, behind))
    return found * (has_before | has_behind)[:, None, :, None, None]


def averaged(clip: Clips, known: Bool[Tensor, " b t"]) -> Clips:
    """Each frame is the mean of the known ones; mid-grey where none is known."""
    weight = known.to(clip)[:, None, :, None, None]
    mean = (clip * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)
    return torch.where(weight > 0, clip, mean)


def blended(clip: Clips, known: Bool[Tensor, " b t"], times: Float[Tensor, " b t"]) -> Clips:
    """Linear in time between the known frames on both sides; where one is missing, copied."""
    before, behind, has_before, has_behind = _neighbours(known)
    start, end = times.gather(1, before), times.gather(1, behind)
    apart = (end - start).clamp(min=1e-9)
    fraction = ((times - start) / apart).clamp(0, 1)[:, None, :, None, None].to(clip)
    between = torch.lerp(_gathered(clip, before), _gathered(clip, behind), fraction)
    both = (has_before & has_behind)[:, None, :, None, None]
    return torch.where(both, between, copied(clip, known, times))
