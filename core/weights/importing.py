"""Foreign weights as a checkpoint of ours: `polymode import-weights`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from core.errors import InputError, brief, shortened
from core.parts.config import plain
from core.parts.registry import nearest
from core.request import TrainRequest
from core.storage import checkpoint, json_file, tensor_file
from core.weights import diffusers, openai
from core.weights.flags import GUIDED, flags_of, parse_flags
from core.weights.published import PUBLISHED
from core.weights.read import Found, read_weights
from core.weights.translation import Described, request_of, skeleton, translated

Kind = Literal["auto", "guided-diffusion", "improved-diffusion", "ddpm-segmentation", "diffusers"]


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Args:
        checkpoint: folder of checkpoints.
        request: the request that such a network would have been trained with.
        parameters: of the network.
        notes: sentences for the user.
    """

    checkpoint: Path
    request: TrainRequest
    parameters: int
    notes: tuple[str, ...]


def kind_of(text: str) -> Kind:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    for kind in get_args(Kind):
        if kind == text:
            return kind
    raise InputError(f"format: expected one of {', '.join(get_args(Kind))}, got {text!r}")


def import_weights(
    source: Path,
    out: Path,
    *,
    kind: Kind = "auto",
    flags: str = "",
    like: str = "",
    entry: str = "",
) -> Imported:
    """Turn weights of another program into a checkpoint at step 0.

    Args:
        source: a state dict of guided-diffusion's family (``.pt``, or safetensors), or a folder
            that diffusers wrote.
        out: ``checkpoints/`` goes there; must hold none yet.
        kind: the program that wrote it; by default the one whose names it has.
        flags: the original's command-line flags, for state dicts.
        like: a published checkpoint whose flags to take; `flags` win over them.
        entry: which entry of a training checkpoint to take; averaged weights by default.

    Raises:
        InputError: it cannot be read without being trusted, its tensors are not those of the
            network that flags or config describe, or values are NaN or infinite.
    """
    if checkpoint.is_started(out / "checkpoints"):
        raise InputError(f"{out}: holds checkpoints already; choose another output folder")
    folder = source.is_dir()
    if kind == "diffusers" and not folder:
        raise InputError(f"{source}: format diffusers requires the folder with config.json")
    if folder and kind not in ("auto", "diffusers"):
        raise InputError(f"{source}: format {kind} requires the file of weights")
    if folder and not diffusers.is_folder(source):
        raise InputError(
            f"{source}: a folder without config.json or unet/config.json; give a file of weights "
            "or a folder that diffusers wrote"
        )
    if folder and (flags or like):
        raise InputError("flags, like: only for state dicts; a folder's config.json replaces them")
    if folder:
        described, tensors, origin = _of_diffusers(source, entry)
    else:
        described, tensors, origin = _of_guided(source, kind, flags, like, entry)
    if problem := tensor_file.not_finite(tensors):
        raise InputError(
            f"{source}: {problem}; expected finite values: get it again from where it came from"
        )
    request = request_of(described)
    notes = tuple(origin.pop("notes")) + described.notes
    state = {"request": plain(request), "data": "", "origin": origin}
    documents = {"README.md": _card(request, origin, described, tensors)}
    checkpoint.save(
        out / "checkpoints", 0, {"model": tensors, "ema": tensors}, state, documents=documents
    )
    count = sum(value.numel() for value in tensors.values())
    return Imported(out / "checkpoints", request, count, notes)


Made = tuple[Described, dict[str, Tensor], dict[str, Any]]


def _of_diffusers(source: Path, entry: str) -> Made:
    config_file, weights, scheduler_file = diffusers.files_of(source)
    config = json_file.read_options(config_file)
    scheduler = json_file.read_options(scheduler_file) if scheduler_file else None
    described = diffusers.describe(config, scheduler)
    found = read_weights(weights, entry=entry)
    tensors = translated(
        skeleton(described),
        diffusers.modern(found.tensors),
        diffusers.naming(config.get("layers_per_block", diffusers.MODEL["layers_per_block"])),
        diffusers.joined,
        source=str(weights),
    )
    origin = _origin(weights, found, "diffusers")
    origin["config"], origin["scheduler"] = config, scheduler
    return described, tensors, origin


def _of_guided(source: Path, kind: Kind, flags: str, like: str, entry: str) -> Made:
    given, package = {}, {"auto": "", "ddpm-segmentation": GUIDED}.get(kind, kind)
    if like:
        if like not in PUBLISHED:
            raise InputError(
                f"like: no published checkpoint named {like!r}{nearest(like, PUBLISHED)}\n"
                f"  known: {', '.join(PUBLISHED)}"
            )
        its, line = PUBLISHED[like]
        package, given = package or its, parse_flags(line)
    given |= parse_flags(flags)
    found = read_weights(source, entry=entry)
    if not openai.is_guided(found.tensors):
        names = ", ".join(sorted(found.tensors)[:3])
        raise InputError(
            f"{source}: not a state dict of guided-diffusion or improved-diffusion; it has "
            f"{len(found.tensors)} tensors such as {names}"
        )
    shapes = {name: tuple(value.shape) for name, value in found.tensors.items()}
    residual = openai.look(shapes, str(source)).residual
    chosen = flags_of(given, package, residual)
    described = openai.describe(shapes, chosen, str(source))
    ours = skeleton(described)
    joining = openai.joining(described, chosen)
    tensors = translated(ours, found.tensors, openai.naming(ours), joining, source=str(source))
    origin = _origin(source, found, chosen.package)
    origin["flags"] = dict(chosen.given)
    if not given and source.stem in PUBLISHED:
        origin["notes"].append(f"named like a published checkpoint: --like {source.stem}")
    return described, tensors, origin


def _origin(file: Path, found: Found, kind: str) -> dict[str, Any]:
    """Origin of the tensors, for the checkpoint; its `notes` are for the user alone."""
    notes = []
    if found.taken:
        left = shortened(", ".join(found.left)) or "none"
        notes.append(f"read the entry {brief(found.taken)}; not read: {left}")
    narrow = sorted({str(v.dtype)[6:] for v in found.tensors.values()} - {"float32"})
    if narrow:
        notes.append(f"converted {', '.join(narrow)} to float32")
    about: dict[str, Any] = {"file": file.name, "sha256": found.sha256, "format": kind}
    return about | {"entry": found.taken, "notes": notes}


def _card(
    request: TrainRequest,
    origin: Mapping[str, Any],
    described: Described,
    tensors: Mapping[str, Tensor],
) -> str:
    """The page beside the tensors: their origin, intended use and limits."""
    count = sum(value.numel() for value in tensors.values())
    parts = ("network", "process", "parameterization", "objective")
    listed = "\n".join(f"- {name}: `{getattr(request, name).name}`" for name in parts)
    default = described.guidance
    guidance = "none" if default is None else f"`{default.name}`, each estimate of x0 clipped"
    shape = " x ".join(map(str, described.size))
    same = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:12]
    return f"""# Imported weights
{count:,} parameters from `{origin["file"]}` ({origin["format"]}), SHA-256 `{origin["sha256"]}`.
Samples are {shape}, in [-1, 1]; classes: {described.classes or "none"}; names of tensors `{same}`.
## Imported as
{listed}

The request beside this page states every option. Steps of training: unknown, counted here as 0.
## Intended use
As their makers intended; their licence and model card hold. Sampling, fine-tuning, and as a prior
for measurements. Samples take the guidance of the original by default: {guidance}.
## Limits
Nothing was measured here. Training data, their licences and biases are not in the file.
"""
