"""Figures of completed clips: over the frames that were not given, and of motion."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.results.metrics import ssim

MOST = 100.0  # dB, of frames that are equal, so that means are finite
WINDOW = 11  # pixels a side of SSIM's window


def frame_errors(
    output: Float[Tensor, " b c t h w"], truth: Float[Tensor, " b c t h w"]
) -> Float[Tensor, " b t"]:
    """Mean squared error of each frame, of values in [0, 1]."""
    return ((output.double() - truth.double()) / 2).square().mean((1, 3, 4))


def pooled_error(
    errors: Float[Tensor, " b t"], counted: Bool[Tensor, " b t"]
) -> Float[Tensor, " b"]:
    """The mean of errors over the frames that count; 0 where none does."""
    return (errors * counted).sum(1) / counted.sum(1).clamp(min=1)


def change_errors(
    output: Float[Tensor, " b c t h w"], truth: Float[Tensor, " b c t h w"]
) -> Float[Tensor, " b t"]:
    """Mean squared error of each frame's change since the one before it, of values in [0, 1].

    0 of the first frame.  Flicker shows here and not in the frames' own errors: it is twice the
    variance of an error that is drawn anew in each frame, and 0 of one that stays.
    """
    found = frame_errors(output.diff(dim=2), truth.diff(dim=2))
    return torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)


def spread_skill(
    draws: Float[Tensor, " b k c t h w"],
    truth: Float[Tensor, " b c t h w"],
    counted: Bool[Tensor, " b t"],
) -> Float[Tensor, " b"]:
    """sqrt((k + 1) / k mean variance) / root mean squared error of the mean; 1 at best.

    Of draws that are as far apart as they are from the truth; below 1 they are too sure.  The
    variance is of k - 1.
    Source: Fortin et al. 2014, Journal of Hydrometeorology 15, 1708-1713, eq. 15.

    Args:
        draws: at least two of each clip.
        truth: the clips.
        counted: frames that count.
    """
    k = draws.shape[1]
    mean = draws.double().mean(1)
    variance = draws.double().var(1).mean((1, 3, 4)) * (k + 1) / k / 4  # of values in [0, 1]
    skill = pooled_error(frame_errors(mean, truth), counted).clamp(min=1e-30)
    return (pooled_error(variance, counted) / skill).sqrt()


def decibels(error: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """PSNR in dB of a mean squared error of values in [0, 1], at most 100."""
    return (-10 * error.clamp(min=1e-30).log10()).clamp(max=MOST)


def frame_ssim(
    output: Float[Tensor, " b c t h w"], truth: Float[Tensor, " b c t h w"]
) -> Float[Tensor, " b t"]:
    """SSIM of each frame, at least 11x11 pixels; see `core.results.metrics.ssim`."""
    b, t = output.shape[0], output.shape[2]
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (output, truth)]
    return ssim(*flat).unflatten(0, (b, t))


def centroids(clip: Float[Tensor, " b 1 t h w"]) -> Float[Tensor, " b t 2"]:
    """Centre of mass (row, column) of each frame in pixels, -1 weighing nothing."""
    mass = ((clip[:, 0].double() + 1) / 2).clamp(min=0)
    rows, columns = (
        torch.arange(n, dtype=torch.float64, device=clip.device) + 0.5 for n in mass.shape[2:]
    )
    whole = mass.sum((2, 3)).clamp(min=1e-9)
    return (
        torch.stack([(mass.sum(3) * rows).sum(2), (mass.sum(2) * columns).sum(2)], -1)
        / whole[..., None]
    )


def centroid_error(
    output: Float[Tensor, " b 1 t h w"],
    truth: Float[Tensor, " b 1 t h w"],
    counted: Bool[Tensor, " b t"],
) -> Float[Tensor, " b"]:
    """Distance of the centres of mass in pixels, mean over the frames that count."""
    apart = (centroids(output) - centroids(truth)).norm(dim=-1)
    return pooled_error(apart, counted)


def direction_right(
    output: Float[Tensor, " b 1 t h w"],
    truth: Float[Tensor, " b 1 t h w"],
    counted: Bool[Tensor, " b t"],
) -> Float[Tensor, " b"]:
    """1 where the last move between two completed frames has the truth's signs, else 0.

    Of a single object that bounced, this says whether the bounce was predicted.  Axes along which
    the truth moves less than a tenth of a pixel do not count.
    """
    both = counted[:, 1:] & counted[:, :-1]
    places = torch.arange(both.shape[1], device=both.device)
    last = torch.where(both, places, -1).amax(1).clamp(min=0)[:, None, None].expand(-1, 1, 2)
    moved, true = (centroids(x).diff(dim=1).gather(1, last)[:, 0] for x in (output, truth))
    right = (moved.sign() == true.sign()) | (true.abs() < 0.1)
    return (right.all(-1) & both.any(1)).double()
