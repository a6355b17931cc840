"""Tasks on pictures: super-resolution, colourisation, inpainting, uncropping, JPEG restoration.

Source: Saharia et al. 2021 (SR3), arXiv:2104.07636, and 2022 (Palette), arXiv:2111.05826.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.process.noise import derive
from core.task import Batch, Figure
from plugins.image2image import jpeg
from plugins.image2image.colour import (
    levels_luma,
    levels_with_luma,
    to_integers,
    with_luma,
)
from plugins.image2image.fill import biharmonic, harmonic, total_variation
from plugins.image2image.masks import Kind, random_mask
from plugins.image2image.operators import Bicubic
from plugins.image2image.restoration import (
    MOST,
    Restoration,
    Target,
    local_contrast,
    to_levels,
)

# --- super-resolution --------------------------------------------------------------------------


def residual_spread(low: Float[Tensor, " b c y x"]) -> Float[Tensor, " b 1 y x"]:
    """The deviation to expect of what `low`'s bicubic enlargement lacks, from its local contrast.

    0.006 + 1.7 s / (1 + 5.5 s), s the deviation of brightness over 3x3 pixels: fitted to the
    training photographs at factor 4, where it spans 0.01 in sky to 0.2 at edges.
    """
    contrast = local_contrast(low, 3)
    return 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)


class SR3(Restoration):
    """Super-resolution by iterative refinement: the enlarged picture is the condition.

    The low-resolution picture is the antialiased bicubic reduction, rounded to 8 bits as a file
    would be; its bicubic enlargement is concatenated to the noisy picture.
    Source: Saharia et al. 2021, arXiv:2104.07636; the residual target after Li et al. 2021
    (SRDiff), arXiv:2104.14951, section 3.2, here in units of the deviation to expect of it.

    Args:
        scale: factor of enlargement, at least 2.
        target: what is diffused: the picture itself, as in SR3, or what the enlargement lacks,
            in units of what its local contrast lets expect, which trains far faster.
        back_projections: rounds of x <- x + up(low - down(x)) on each estimate and each result;
            each brings its reduction closer to the input.
        augment: largest deviation of the noise that is added to the low-resolution picture in
            training, drawn evenly for each item and told to the network, so that it can follow
            another model in a cascade (Ho et al. 2022, JMLR 23, section 4); 0 for none.
        level: the deviation for all items, for a sweep; by default it is drawn.
        reduce: factor by which the pictures themselves are reduced before, for the first model of
            a cascade, whose results are smaller than they are.
        seed: of that noise.
    """

    def __init__(
        self,
        *,
        scale: int = 4,
        target: Target = "residual",
        back_projections: int = 0,
        augment: float = 0.0,
        level: float | None = None,
        reduce: int = 1,
        seed: int = 0,
    ) -> None:
        if reduce < 1:
            raise InputError(f"reduce: expected at least 1, got {reduce}")
        if back_projections < 0:
            raise InputError(f"back_projections: expected at least 0, got {back_projections}")
        if augment < 0:
            raise InputError(f"augment: expected at least 0, got {augment:g}")
        if level is not None and not 0 <= level <= augment:
            raise InputError(f"level: expected 0 to augment, which is {augment:g}, got {level:g}")
        super().__init__("bicubic", target)
        self.augment, self.level, self.reduce, self.seed = augment, level, reduce, seed
        if augment:
            self.conditions = {"image": self.conditions["image"] + 1}
        self.operator = Bicubic(factor=scale)
        self.scale = scale
        self.back_projections = back_projections
        self.figures = {
            **self.figures,
            "consistency": Figure("consistency MSE", "1e-5", "lower"),
        }

    def given(self, low: Float[Tensor, " b 3 y x"], level: float, noise: Tensor) -> Batch:
        """A low-resolution picture as the network is to see it.

        Raises:
            InputError: a level that it was not trained for.
        """
        if not 0 <= level <= self.augment:
            raise InputError(
                f"level: the model was trained for noise of 0 to {self.augment:g}, got {level:g}"
            )
        if not self.augment:
            return {"low": low}
        told = torch.full_like(low[:, :1, :1, :1], level)
        return {"low": low, "seen": low + level * noise, "level": told}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item, reduced if asked for; with augmentation, its low-resolution picture too."""
        if self.reduce > 1:
            image = Bicubic(factor=self.reduce).forward(item["image"][None])[0]
            item = {**item, "image": to_levels(image)}
        if not self.augment:
            return item
        key = np.array([derive("augment", self.seed), index], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        level = self.augment * random.random() if self.level is None else self.level
        low = self.low({"image": item["image"][None]})
        noise = torch.from_numpy(random.standard_normal(low.shape, dtype=np.float32))
        return {**item, **{name: x[0] for name, x in self.given(low, level, noise).items()}}

    def low(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """The low-resolution picture that a camera's file would hold, in [-1, 1]."""
        given = batch.get("low")
        return to_levels(self.operator.forward(batch["image"])) if given is None else given

    def seen(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """What of it the network is given: itself, or itself with noise."""
        given = batch.get("seen")
        return self.low(batch) if given is None else given

    def base(self, batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The bicubic enlargement."""
        return self.operator.up(self.seen(batch))

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """What every restoration is given and, with augmentation, the level of the noise."""
        told = super().condition(batch)
        if self.augment:
            image = told["image"]
            level = batch["level"].expand(-1, 1, *image.shape[-2:]) / self.augment
            told = {"image": torch.cat([image, level], dim=1)}
        return told

    def spread(self, batch: Batch) -> Float[Tensor, " b 1 h w"]:
        """`residual_spread` at the size of the result."""
        low = self.seen(batch)
        size = (low.shape[-2] * self.scale, low.shape[-1] * self.scale)
        return F.interpolate(residual_spread(low), size, mode="bilinear", align_corners=False)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture after its rounds of back-projection."""
        if self.back_projections:
            low = self.low(batch)
            for _ in range(self.back_projections):
                image = image + self.operator.up(low - self.operator.forward(image))
        return image

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The low-resolution picture, as the network saw it."""
        return {"low-res": self.seen(batch)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The enlargement of the picture without noise, and it after ten back-projections."""
        low = self.low(batch)
        image = up = self.operator.up(low)
        for _ in range(10):
            image = image + self.operator.up(low - self.operator.forward(image))
        return {self.reference: up, "bicubic + back-projection": image}

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """The squared error of its reduction, in units of [0, 1] squared as in SR3's table 1."""
        apart = (self.operator.forward(written) - self.low(batch)).double() / 2
        return {"consistency": apart.square().flatten(1).mean(1) * 1e5}


# --- Palette's tasks ---------------------------------------------------------------------------


class Colourise(Restoration):
    """Colours for a grey picture, whose luma the result has exactly.

    Pictures without any colour teach nothing: their errors do not count in training.

    Args:
        target: what is diffused: the picture or the difference of its colours from grey.
    """

    def __init__(self, *, target: Target = "residual") -> None:
        super().__init__("grey", target)
        self.figures = {**self.figures, "luma": Figure("luma error", "levels", "lower")}

    def given(self, grey: Float[Tensor, " 1 h w"]) -> Batch:
        """A grey picture as a first estimate of its colours."""
        return {"base": grey.expand(3, -1, -1), "spread": self.expected(grey)}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The 8-bit luma that Pillow gives the picture, and it as a first estimate."""
        grey = levels_luma(to_integers(item["image"][None]))[0].float() / 127.5 - 1
        return {**item, **self.given(grey)}

    @staticmethod
    def expected(grey: Float[Tensor, " 1 h w"]) -> Float[Tensor, " 1 h w"]:
        """The deviation of colours from their luma: 0.03 + 1.2 u (1 - u), u the luma in [0, 1].

        Fitted to the training photographs that have colours; black and white have little room.
        """
        return 0.03 + 0.3 * (1 - grey**2)

    def counted(self, batch: Batch) -> Tensor:
        """Everything of a picture that has colours."""
        image = batch["image"]
        apart = (image - image.mean(1, keepdim=True)).abs().amax((1, 2, 3), keepdim=True)
        return (apart > 1 / 255).to(image).expand_as(image)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture with the given luma, its colours within the range of files."""
        return with_luma(image, self.base(batch)[:, :1])

    def written(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """At 8 bits with the given luma to the last level."""
        levels = levels_with_luma(self.agree(image, batch), to_integers(self.base(batch)[:, :1]))
        return levels.to(image) / 127.5 - 1

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """The largest difference of an 8-bit luma from the one given."""
        given = to_integers(self.base(batch)[:, :1])
        apart = (levels_luma(to_integers(written)) - given).abs()
        return {"luma": apart.flatten(1).amax(1).double()}


class Inpaint(Restoration):
    """What is in a hole; the pixels around it stay as they are to the last bit.

    Free-form strokes and rectangles over 10 to 40 % of a picture, or one or all sides of it
    (uncropping), drawn anew for each item.  Errors count in the hole alone.

    Args:
        holes: of which kind.
        target: what is diffused: the picture or what a smooth filling of the hole lacks.
        seed: of the masks.
    """

    def __init__(
        self,
        *,
        holes: Kind = "inpaint",
        target: Target = "residual",
        seed: int = 0,
    ) -> None:
        super().__init__("smooth filling", target)
        self.holes: Kind = holes
        self.seed = seed
        self.figures = {
            **self.figures,
            "hole": Figure("PSNR in the hole", "dB", "higher"),
            "known": Figure("known pixels changed", "", "lower"),
        }

    def given(self, image: Float[Tensor, " 3 h w"], hole: Bool[Tensor, " h w"]) -> Batch:
        """A picture with its hole filled smoothly; what is in the hole is not looked at."""
        known = (~hole)[None, None].to(image)
        contrast = local_contrast(image[None], 7, known)
        filled = harmonic(torch.cat([image[None], contrast], 1), hole[None, None])[0]
        spread = self.expected(filled[3], hole)
        return {"hole": hole[None], "base": filled[:3], "spread": spread[None]}

    def degrade(self, item: Batch, index: int) -> Batch:
        """A mask and the picture with its hole filled smoothly."""
        height, width = item["image"].shape[-2:]
        hole = random_mask(self.seed, index, height, width, self.holes)
        return {**item, **self.given(item["image"], hole)}

    @staticmethod
    def expected(
        contrast: Float[Tensor, " h w"], hole: Bool[Tensor, " h w"]
    ) -> Float[Tensor, " h w"]:
        """The deviation of what a smooth filling lacks, from the contrast of what is around it.

        0.01 + 0.02 log d + s / (1 + 2.4 s) with s = c (1.3 + 3.5 log d), d the distance to what is
        known in pixels and c the deviation of brightness over the known of 7x7 pixels, continued
        into the hole as the picture is: fitted to the training photographs, where it spans 0.02
        in sky to 0.4 deep in a texture.  The part without c is more than the fit's, so that an
        object in a plain hole is not hundreds of deviations away.  0.01 outside, where the first
        estimate is the picture.
        """
        from scipy.ndimage import distance_transform_edt

        far = torch.from_numpy(distance_transform_edt(hole.numpy())).float().clamp(min=1).log()
        grown = contrast * (1.3 + 3.5 * far)
        return torch.where(hole, 0.01 + 0.02 * far + grown / (1 + 2.4 * grown), 0.01)

    def counted(self, batch: Batch) -> Tensor:
        """The hole."""
        return batch["hole"].float().expand_as(batch["base"])

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture with the known pixels put back."""
        return torch.where(batch["hole"], image, self.base(batch))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The picture with its hole in grey."""
        return {"input": batch["image"].masked_fill(batch["hole"], 0)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The smooth filling, one of little total variation, and the biharmonic one."""
        image, hole = batch["image"], batch["hole"]
        return {
            self.reference: self.base(batch),
            "total variation": total_variation(image, hole),
            "biharmonic": biharmonic(image, hole),
        }

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """PSNR over the hole, and the share of known pixels that are not as they were."""
        hole = batch["hole"]
        squares = (written - batch["image"]).double().square() / 4 * hole
        error = squares.flatten(1).sum(1) / (3 * hole.flatten(1).sum(1))
        changed = (to_integers(written) != to_integers(batch["image"])).any(1, keepdim=True) & ~hole
        return {
            "hole": (-10 * error.log10()).clamp(max=MOST),
            "known": changed.flatten(1).double().mean(1),
        }


class Uncrop(Inpaint):
    """What lies beyond a picture's edge: half of each item, along one side or around all four.

    Args:
        target: what is diffused: the picture or what a smooth continuation lacks.
        seed: of the sides.
    """

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__(holes="uncrop", target=target, seed=seed)


class JPEG(Restoration):
    """A picture from a JPEG file of quality 5 to 30, whose coefficients the result has.

    Files are real ones, written by Pillow; P(q) ~ exp(-q / 10).  Each estimate is projected onto
    the pictures of which the same file would have been made.

    Args:
        quality: of all files; 0 draws one for each.
        target: what is diffused: the picture or what the file lacks.
        seed: of the qualities.
    """

    ROUNDS = 10  # of projections onto the file's coefficients and onto the range, at the end

    def __init__(self, *, quality: int = 0, target: Target = "residual", seed: int = 0) -> None:
        if not 0 <= quality <= 100:
            raise InputError(f"quality: expected 1 to 100, or 0 to draw it, got {quality}")
        super().__init__("JPEG file", target)
        self.quality, self.seed = quality, seed

    def degrade(self, item: Batch, index: int) -> Batch:
        """The file's picture, its steps and coefficients."""
        height, width = item["image"].shape[-2:]
        if height % 16 or width % 16:
            raise InputError(
                f"JPEG restoration learns from crops whose sides are multiples of 16, got "
                f"{width}x{height}; set the dataset's size so"
            )
        key = np.array([derive("quality", self.seed), index], np.uint64)
        drawn = np.random.Generator(np.random.Philox(key=key)).random()
        file = jpeg.encode(item["image"], self.quality or jpeg.quality(drawn))
        return {**item, **self.given(file)}

    def given(self, file: jpeg.File) -> Batch:
        """A file's picture, its steps and coefficients."""
        return {
            "base": file.decoded,
            "spread": self.expected(file)[None],
            "tables": file.tables,
            "luma": file.luma,
            "chroma": file.chroma,
        }

    @staticmethod
    def expected(file: jpeg.File) -> Float[Tensor, " h w"]:
        """The deviation of what a file lacks, from its steps and its local contrast.

        0.015 + 0.045 q + 0.55 s / (1 + 2.7 s), q the mean of the 16 finest luma steps and s the
        deviation of brightness over 7x7 pixels: fitted to the training photographs.
        """
        step = file.tables[0, :4, :4].mean() / 127.5
        contrast = local_contrast(file.decoded[None], 7)[0, 0]
        return 0.015 + 0.045 * step + 0.55 * contrast / (1 + 2.7 * contrast)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The nearest picture of which the same file would have been made."""
        return jpeg.project(image, batch["tables"], batch["luma"], batch["chroma"])

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored pictures, in [-1, 1], as near to the file's coefficients as the range lets.

        Source: projections in turn onto two convex sets, Bregman 1965.
        """
        image = super().finish(x0, batch)
        for _ in range(self.ROUNDS):
            image = self.agree(image, batch).clamp(-1, 1)
        return image


class MultiTask(Restoration):
    """Palette's four tasks by one network: each item is one of them, drawn from its index.

    For training.  Samples are drawn for one of the tasks: ``sample`` with ``task`` set.
    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, section 4.3.

    Args:
        target: as of each task.
        seed: of masks, qualities and of which task an item is.
    """

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__("degraded", target)
        self.seed = seed
        self.tasks: tuple[Colourise | Inpaint | JPEG, ...] = (
            Colourise(target=target),
            Inpaint(target=target, seed=seed),
            Uncrop(target=target, seed=seed),
            JPEG(target=target, seed=seed),
        )

    def degrade(self, item: Batch, index: int) -> Batch:
        """What one of the tasks makes of the item, as far as they have it in common."""
        task = self.tasks[derive("task", self.seed, index) % len(self.tasks)]
        made = task.degrade(item, index)
        counted = task.counted({name: value[None] for name, value in made.items()})
        counts = torch.ones_like(item["image"]) if counted is None else counted[0]
        return {**item, "base": made["base"], "spread": made["spread"], "counts": counts}

    def counted(self, batch: Batch) -> Tensor:
        """What counts in each item's own task."""
        return batch["counts"]
