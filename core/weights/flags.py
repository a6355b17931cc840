"""Command-line flags of guided-diffusion and improved-diffusion, as their READMEs print them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import InputError

GUIDED, IMPROVED = "guided-diffusion", "improved-diffusion"

# Flags of the network or its chain, with the original's defaults.
DEFAULTS: dict[str, Any] = {
    "image_size": 64, "large_size": 256, "small_size": 64, "num_channels": 128,
    "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1, "num_head_channels": -1,
    "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False,
    "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False,
    "learn_sigma": False, "diffusion_steps": 1000, "noise_schedule": "linear",
    "predict_xstart": False, "rescale_timesteps": False,
}  # fmt: skip
# improved-diffusion's: times are scaled to a thousand steps whatever the length of the chain.
OTHERWISE: dict[str, dict[str, Any]] = {GUIDED: {}, IMPROVED: {"rescale_timesteps": True}}
# Flags of its scripts that change neither: of training, of sampling, of precision.
WITHOUT_EFFECT = {
    "use_checkpoint", "use_fp16", "sigma_small", "use_kl", "rescale_learned_sigmas",
    "timestep_respacing", "data_dir", "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps",
    "batch_size", "microbatch", "ema_rate", "log_interval", "save_interval", "resume_checkpoint",
    "fp16_scale_growth", "clip_denoised", "num_samples", "use_ddim", "model_path", "base_samples",
    "classifier_path", "classifier_scale", "classifier_depth", "classifier_width",
    "classifier_pool", "classifier_attention_resolutions", "classifier_resblock_updown",
    "classifier_use_fp16", "classifier_use_scale_shift_norm",
}  # fmt: skip
ONLY_GUIDED = {"num_head_channels", "channel_mult", "resblock_updown", "use_new_attention_order"}
NOT_IN_SHAPES = (
    "num_heads", "num_head_channels", "use_new_attention_order", "diffusion_steps",
    "noise_schedule", "predict_xstart", "rescale_timesteps",
)  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """Flags that were given, over the original's defaults.

    Args:
        given: those of `DEFAULTS`, by name.
        package: the package that they are flags of.
    """

    given: Mapping[str, Any]
    package: str = GUIDED

    def __getitem__(self, name: str) -> Any:
        return (DEFAULTS | OTHERWISE[self.package] | dict(self.given))[name]

    def assumed(self) -> tuple[str, ...]:
        """A note of the defaults that neither shapes nor flags replace; none without any."""
        left = [name for name in NOT_IN_SHAPES if name not in self.given]
        heads = {"num_heads", "num_head_channels"}
        if self["num_head_channels"] > 0 or "num_heads" in self.given:
            left = [name for name in left if name not in heads]
        if not left:
            return ()
        assumed = " ".join(f"--{name} {self[name]}" for name in left)
        return (f"not in the file; assuming {self.package}'s defaults: {assumed}",)


def parse_flags(text: str) -> dict[str, Any]:
    """The flags in a line such as ``--image_size 64 --learn_sigma True``; later ones win.

    Raises:
        InputError: flags that the originals do not have, or bad values, all of them.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--flags: cannot be split into words: {error}") from error
    found, problems, left = {}, [], iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            problems.append(f"expected a flag such as --image_size, got {word!r}")
            continue
        value = value if equals else next(left, None)
        if name in WITHOUT_EFFECT:
            continue
        if name not in DEFAULTS:
            problems.append(f"--{name}: the originals have no such flag")
        elif value is None:
            problems.append(f"--{name}: has no value")
        else:
            try:
                found[name] = _value(name, value)
            except ValueError:
                kind = {bool: "True or False", int: "a whole number", float: "a number"}
                expected = kind.get(type(DEFAULTS[name]), "whole numbers with commas")
                problems.append(f"--{name}: expected {expected}, got {value!r}")
    if problems:
        raise InputError("\n".join(f"flags: {problem}" for problem in problems))
    return found


def _value(name: str, text: str) -> Any:
    default = DEFAULTS[name]
    if isinstance(default, bool):
        word = text.lower()
        if word not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
            raise ValueError(text)
        return word in ("yes", "true", "t", "y", "1")
    if isinstance(default, (int, float)):
        number = type(default)(text)
        if not _least(name) <= number <= 1_000_000:
            raise ValueError(text)
        return number
    if name != "noise_schedule" and min(int(side) for side in text.split(",")) < 1:
        raise ValueError(text)
    return text


def _least(name: str) -> int:
    """Least value of a number: -1 for "not given", 0 for fractions, 1 for counts."""
    if DEFAULTS[name] == -1:
        return -1
    if name == "diffusion_steps":
        return 2
    return 1 if DEFAULTS[name] > 0 else 0


def flags_of(given: Mapping[str, Any], package: str, residual: bool) -> Flags:
    """The flags, read as those of the package that they can only be of.

    Args:
        given: flags of the network or its chain.
        package: the package that the user names; "" for none.
        residual: whether sizes change in residual blocks, which only guided-diffusion has.

    Raises:
        InputError: the two packages would read the same file differently.
    """
    if package:
        return Flags(given, package)
    unlike = given.get("diffusion_steps", 1000) != 1000 and "rescale_timesteps" not in given
    if unlike and not residual and not ONLY_GUIDED & given.keys():
        raise InputError(
            "flags: with other than 1000 diffusion_steps, guided-diffusion and improved-diffusion "
            "feed the network different times; add --format guided-diffusion or "
            "--format improved-diffusion"
        )
    return Flags(given, GUIDED)
