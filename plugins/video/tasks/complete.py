"""Frames of a clip given any others: prediction, interpolation and generation by one model."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive, generator
from core.results.scoring import name_of_mean, outputs, scores
from core.results.sheet import to_bytes
from core.task import Batch, Clip, Example, Figure, Item, Method, Panel, Scores
from plugins.video.tasks import figures as measured
from plugins.video.tasks.classical import averaged, blended, copied
from plugins.video.tasks.given import Kind, drawn
from plugins.video.tasks.history import noised

BORDER = (244, 162, 30)  # of frames that were given
TICKS = 1000  # of a dataset's times in a frame's usual duration


class Complete:
    """Frames of a clip given any others, at any times.

    A clip's frames, or `length` of them, are divided into given and unknown ones, each clip in its
    own way; the loss is over the unknown.  So one model predicts, interpolates, fills gaps and
    generates.  An item holds ``clip`` (channels, t, h, w), and may hold ``ticks`` (t,), the frames'
    times in thousandths of the usual distance, and ``centre`` of moving objects.
    Source: Voleti et al. 2022, arXiv:2205.09853; Harvey et al. 2022, arXiv:2205.11495.

    Args:
        channels: 1 of grey clips, 3 of colour.
        given: which frames are given: a mixture of all kinds, drawn for each clip, or one kind.
        known: number of given frames of future, past, hole and random; random by default.
        length: frames that the model sees at once; by default all of a clip.
        future: relative frequency of clips whose first frames are given.
        past: of those whose last frames are given.
        hole: of those whose both ends are given.
        sparse: of those where every g-th frame is given, at log-uniform distances.
        random: of those where any frames are given.
        none: of those where nothing is given.
        noisy_history: fraction of the clips whose given frames carry noise, each frame of its own
            level, which history guidance and stabilisation require.
        images: fraction of the clips whose frames are learned as independent images.
        seed: random seed of what is given.
    """

    reference = "nearest given frame"

    def __init__(
        self,
        *,
        channels: Literal[1, 3] = 3,
        given: Literal["mixture", "future", "past", "hole", "sparse", "random", "none"] = "mixture",
        known: int | None = None,
        length: int | None = None,
        future: float = 0.35,
        past: float = 0.1,
        hole: float = 0.25,
        sparse: float = 0.1,
        random: float = 0.1,
        none: float = 0.1,
        noisy_history: float = 0.0,
        images: float = 0.0,
        seed: int = 0,
    ) -> None:
        weights: dict[Kind, float] = {
            "future": future, "past": past, "hole": hole, "sparse": sparse, "random": random,
            "none": none,
        }  # fmt: skip
        problems = [
            f"{name}: expected 0 or more, got {value}"
            for name, value in weights.items()
            if value < 0
        ]
        if not sum(weights.values()) > 0:
            problems.append("future, past, hole, sparse, random, none: expected one above 0")
        for name, value in (("noisy_history", noisy_history), ("images", images)):
            if not 0 <= value <= 1:
                problems.append(f"{name}: expected 0 to 1, got {value}")
        for name, value in (("known", known), ("length", length)):
            if value is not None and value < 1:
                problems.append(f"{name}: expected at least 1, got {value}")
        if known is not None and length is not None and known >= length:
            problems.append(f"known: expected less than length {length}, got {known}")
        if problems:
            raise InputError("\n".join(f"complete: {problem}" for problem in problems))
        self.channels, self.given, self.known, self.length = channels, given, known, length
        self.weights: dict[Kind, float] = weights if given == "mixture" else {given: 1.0}
        self.noisy_history, self.images, self.seed = noisy_history, images, seed
        self.conditions: Mapping[str, int] = {"image": channels + 1}
        self.reads: Mapping[str, str] = {"clip": f"{channels} t h w"}
        self.figures: Mapping[str, Figure] = {
            "psnr": Figure("PSNR of unknown frames", "dB", "higher"),
            "mse": Figure("squared error of unknown frames, of 1000", "", "lower"),
            "ssim": Figure("SSIM of unknown frames", "", "higher"),
            "first": Figure("PSNR of the first two unknown frames", "dB", "higher"),
            "change": Figure("PSNR of changes from frame to frame", "dB", "higher"),
            "spread": Figure("spread of draws over error of their mean", "", "higher", best=1.0),
            "known": Figure("given frames changed", "", "lower"),
            "centroid": Figure("error of the centre of mass", "px", "lower"),
            "direction": Figure("last direction of motion right", "", "higher"),
        }

    def degrade(self, item: Item, index: int) -> Item:
        """The frames that the model sees, and which of them are given.

        Raises:
            InputError: a clip of fewer frames than `length`, or than what is given and one more.
        """
        clip = item["clip"]
        available = clip.shape[1]
        length = self.length or available
        if length > available or (self.known or 0) >= length:
            raise InputError(
                f"complete: length {length} with {self.known} given frames requires clips of as "
                f"many frames and at least one to complete, got clips of {available}"
            )
        random = generator(derive("video/given", self.seed), index)
        indices, known = drawn(random, available, length, self.weights, self.known)
        ticks = item.get("ticks")
        times = indices.astype(np.float32) if ticks is None else ticks[indices].numpy() / TICKS
        chosen = {"clip": clip[:, indices], "known": torch.from_numpy(known)}
        chosen["times"] = torch.from_numpy(np.asarray(times - times[0], np.float32))
        if "centre" in item:
            chosen["centre"] = item["centre"][:, indices]
        if self.images:
            chosen["independent"] = torch.tensor(random.random() < self.images)
        if self.noisy_history:
            chosen |= self._noisy(chosen["clip"], random)
        return chosen

    def _noisy(self, clip: Tensor, random: np.random.Generator) -> dict[str, Tensor]:
        """Given frames with noise, each of its own level, and those levels; clean in other clips.

        Source: Chen et al. 2024, arXiv:2407.01392, algorithm 1 (independent levels).
        """
        frames = clip.shape[1]
        u = torch.from_numpy(random.random(frames) * (random.random() < self.noisy_history))
        eps = torch.from_numpy(random.standard_normal(clip.shape)).float()
        seen, level = noised(clip, u, eps)
        return {"seen": seen, "known_level": level}

    def prepare(self, batch: Batch) -> Example:
        """The clip, the given frames and their mask, and the frames' times."""
        clip = batch["clip"]
        mask = _over(self._known(batch), clip).to(clip)
        seen = batch.get("seen", clip)
        condition = {"image": torch.cat([seen * mask, mask.expand_as(clip[:, :1])], dim=1)}
        for name in ("times", "known_level", "independent"):
            if name in batch:
                condition[name] = batch[name]
        return Example(clip, condition, (1 - mask).expand_as(clip))

    def finish(self, x0: Float[Tensor, " b c t h w"], batch: Batch) -> Float[Tensor, " b c t h w"]:
        """The completed clip in [-1, 1]; given frames keep their bits."""
        return torch.where(_over(self._known(batch), x0), batch["clip"].to(x0), x0.clamp(-1, 1))

    def score(self, results: Float[Tensor, " b k c t h w"], batch: Batch) -> Scores:
        """Of copies, the mean, a blend, one draw, the best and the mean of several."""
        clip, known, times = batch["clip"], self._known(batch), self._times(batch)
        classical = {
            self.reference: copied(clip, known, times),
            "mean of given frames": averaged(clip, known),
            "linear blend": blended(clip, known, times),
        }
        compared = outputs(classical, results)
        draws = results.shape[1]
        if draws > 1:
            each = measured.frame_errors(results.flatten(0, 1), clip.repeat_interleave(draws, 0))
            pooled = measured.pooled_error(each, ~known.repeat_interleave(draws, 0))
            best = pooled.view(-1, draws).argmin(1)
            chosen = results[torch.arange(len(results)), best]
            compared[f"best of {draws}"] = "draw", chosen
        found = scores(compared, partial(self._figures_of, batch=batch))
        if draws > 1:
            mean = name_of_mean(draws)
            spread = measured.spread_skill(results, clip, ~known)
            found[mean] = Method("mean", {**found[mean].figures, "spread": spread})
        return found

    def _figures_of(
        self, output: Float[Tensor, " b c t h w"], batch: Batch
    ) -> dict[str, Float[Tensor, " b"]]:
        clip, known = batch["clip"], self._known(batch)
        errors, unknown = measured.frame_errors(output, clip), ~known
        pooled = measured.pooled_error(errors, unknown)
        first = unknown & (unknown.cumsum(1) <= 2)
        moved = unknown.clone()  # changes that an unknown frame has a part in
        moved[:, 1:] |= unknown[:, :-1]
        moved[:, 0] = False
        changes = measured.change_errors(output, clip)
        changed = (output != clip).flatten(3).any(-1).any(1) & known
        found = {
            "psnr": measured.decibels(pooled),
            "mse": 1000 * pooled,
            "first": measured.decibels(measured.pooled_error(errors, first)),
            "change": measured.decibels(measured.pooled_error(changes, moved)),
            "known": measured.pooled_error(changed.double(), known),
        }
        if min(clip.shape[-2:]) >= measured.WINDOW:
            similar = measured.frame_ssim(output, clip)
            found["ssim"] = measured.pooled_error(similar, unknown)
        if "centre" in batch and batch["centre"].shape[1] == 1 and clip.shape[2] > 1:
            found["centroid"] = measured.centroid_error(output, clip, unknown)
            found["direction"] = measured.direction_right(output, clip, unknown)
        return found

    def show(
        self, results: Float[Tensor, " b k c t h w"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """Truth and draws as clips and as strips of frames; given frames have a border."""
        known, found = self._known(batch), []
        for i, title in enumerate(titles):
            rows = {"truth": batch["clip"][i]}
            rows |= {f"sample {k + 1}": draw for k, draw in enumerate(results[i, :3])}
            if results.shape[1] > 1:
                rows[f"mean of {results.shape[1]}"] = results[i].mean(0)
            framed = {name: bordered(clip, known[i]) for name, clip in rows.items()}
            strip = np.concatenate([np.concatenate(list(one), 1) for one in framed.values()], 0)
            note = f"Rows from above: {', '.join(framed)}. Frames with a border were given."
            clips = {name: Clip(frames) for name, frames in framed.items()}
            found.append(Panel(title, {"frames": strip}, note=note, clips=clips))
        return found

    def _known(self, batch: Batch) -> Bool[Tensor, " b t"]:
        """Given frames; of a batch that was not divided, every second one."""
        if "known" in batch:
            return batch["known"]
        clip = batch["clip"]
        return (torch.arange(clip.shape[2], device=clip.device) % 2 == 0).expand(len(clip), -1)

    def _times(self, batch: Batch) -> Float[Tensor, " b t"]:
        clip = batch["clip"]
        even = torch.arange(clip.shape[2], device=clip.device).float().expand(len(clip), -1)
        return batch.get("times", even)


def _over(frames: Tensor, clip: Tensor) -> Tensor:
    """Values of frames (b, t) so that they broadcast over clips."""
    return frames[:, None, :, None, None]


def bordered(clip: Float[Tensor, " c t h w"], known: Bool[Tensor, " t"]) -> np.ndarray:
    """Frames uint8 (t, h + 2, w + 2, 3), with an orange border where they were given, else grey."""
    found = []
    for frame, given in zip(clip.transpose(0, 1), known.tolist(), strict=True):
        pixels = to_bytes(frame)
        pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
        ground = np.full((pixels.shape[0] + 2, pixels.shape[1] + 2, 3), 96, np.uint8)
        ground[:] = BORDER if given else 96
        ground[1:-1, 1:-1] = pixels
        found.append(ground)
    return np.stack(found)
