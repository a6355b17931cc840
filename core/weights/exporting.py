"""A checkpoint of ours as a folder that diffusers loads: `polymode export-weights`."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.network.layers import HEAD, heads_of
from core.network.upgrade import LABEL, upgraded
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath
from core.request import TrainRequest
from core.storage import checkpoint, files, tensor_file
from core.task import Task
from core.weights import diffusers

VERSION = "0.42.1"  # of diffusers, whose folders these are
ADAPTIVE = {"shift": "default", "scale_shift": "scale_shift"}
PREDICTIONS = {ours: theirs for theirs, ours in diffusers.PREDICTIONS.items()}
SHAPES = {ours: theirs for theirs, ours in diffusers.SHAPES.items()}


def export_weights(place: Path, out: Path, *, ema: bool = True) -> Path:
    """Write a checkpoint as a pipeline of diffusers: model, scheduler and index.

    Args:
        place: a run's folder, its checkpoints or one step's folder.
        out: the folder to write; must not exist.
        ema: the averaged weights rather than the last ones.

    Raises:
        InputError: `out` exists, or the network or its chain is one that diffusers cannot express.
        CheckpointError: no whole checkpoint.
        StorageError: the disk is full or not writable.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another output folder")
    group = "ema" if ema else "model"
    saved = upgraded(checkpoint.load(place, groups=(group,)))
    request = bind(TrainRequest, saved.request, at="checkpoint.request")
    task: Task = configure("task", request.task)()
    configs = configs_of(request, task)
    naming = diffusers.naming(configs["unet/config.json"]["layers_per_block"])
    tensors: dict[str, Tensor] = {}
    for name, value in saved.tensors[group].items():
        if name == LABEL:  # without the row for no class where it was never trained
            value = value[: configs["unet/config.json"]["num_class_embeds"]]
        tensors |= diffusers.split(naming(name), value)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        for folder in ("unet", "scheduler"):
            files.create_folder(aside / folder)
        tensor_file.write(aside / "unet" / diffusers.WEIGHTS[0], tensors, {"format": "pt"})
        for name, config in configs.items():
            files.write_text(aside / name, json.dumps(config, indent=2) + "\n")
        aside.rename(out)
        files.sync(out.parent)
    except OSError as error:
        needed, remains = tensor_file.room_for(tensors), "the checkpoint is untouched"
        raise files.not_written(out, error, needed=needed, remains=remains) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def configs_of(request: TrainRequest, task: Task) -> dict[str, dict[str, Any]]:
    """The three files of options, by name.

    Raises:
        InputError: options that diffusers does not support, all of them.
    """
    if request.network.name != "core/unet":
        raise InputError(
            f"cannot be exported: network: {request.network.name}; UNet2DModel requires core/unet"
        )
    outputs = 2 if request.objective.name == "core/hybrid" else 1
    problems, model = _model(request.network.options, task, outputs)
    if classes := task.conditions.get("class"):  # "no class" is the last where it was trained
        model["num_class_embeds"] = classes + (request.unconditional > 0)
    groups = _groups(request, task, outputs)
    model["norm_num_groups"] = min(groups)
    if model["attn_norm_num_groups"] is not None:
        model["attn_norm_num_groups"] = min(groups)
    if len(groups) > 1:
        given = {key: request.network.options[key] for key in ("groups", "group_channels")}
        problems.append(
            f"network.groups: {given['groups']} with group_channels: {given['group_channels']} "
            f"gives norms of {', '.join(map(str, sorted(groups)))} groups; diffusers requires one "
            "number for all"
        )
    size = request.dataset.options.get("shape")
    if request.dataset.name == "core/blank" and size and len(size) == 3:
        model["sample_size"] = size[1] if size[1] == size[2] else list(size[1:])
    more, scheduler = _scheduler(request, outputs)
    if problems + more:
        listed = "\n".join(f"  {problem}" for problem in problems + more)
        raise InputError(f"cannot be exported to diffusers:\n{listed}")
    about = {"_diffusers_version": VERSION}
    return {
        "unet/config.json": {"_class_name": "UNet2DModel"} | about | model,
        "scheduler/scheduler_config.json": {"_class_name": "DDPMScheduler"} | about | scheduler,
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            **about,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
    }


def _model(given: Mapping[str, Any], task: Task, outputs: int) -> tuple[list[str], dict[str, Any]]:
    """Problems, a sentence each, and the options of UNet2DModel."""
    sizes = [int(given["width"] * m) for m in given["multipliers"]]
    attends = [2**depth in given["attention"] for depth in range(len(sizes))]
    attending = {c for c, yes in zip(sizes, attends, strict=True) if yes}
    attending |= {sizes[-1]} if given["middle_attention"] else set()
    head, uneven = _head(given, attending)
    residual = given["resample"] == "residual"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    if not residual:
        down, up = ("DownBlock2D", "UpBlock2D")
    normed = given["adaptive"] == "scale_shift" and given["middle_norm"]
    return _unsupported(given, sizes, task, uneven), diffusers.MODEL | {
        "in_channels": task.channels,
        "out_channels": outputs * task.channels,
        "freq_shift": given["frequency_shift"],
        "flip_sin_to_cos": not given["sine_first"],
        "down_block_types": ["AttnDownBlock2D" if yes else down for yes in attends],
        "up_block_types": ["AttnUpBlock2D" if yes else up for yes in reversed(attends)],
        "block_out_channels": sizes,
        "layers_per_block": given["blocks"],
        "downsample_padding": 1 if given["downsample_padding"] == "both" else 0,
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "dropout": given["dropout"],
        "attention_head_dim": head,
        "norm_num_groups": given["groups"],
        "attn_norm_num_groups": given["groups"] if normed else None,
        "norm_eps": given["epsilon"],
        "resnet_time_scale_shift": ADAPTIVE[given["adaptive"]],
        "add_attention": given["middle_attention"],
    }


def _groups(request: TrainRequest, task: Task, outputs: int) -> set[int]:
    """The numbers of groups of the network's norms."""
    build = configure("network", request.network, at="network")
    with torch.device("meta"):
        network = build(task.channels, outputs * task.channels, task.conditions)
    return {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}


def _unsupported(given: Mapping[str, Any], sizes: list[int], task: Task, uneven: bool) -> list[str]:
    """Options of a network that UNet2DModel does not support, a sentence each."""
    only = {
        "dims": 2, "halved": "all", "level_features": "sinusoidal", "input_octaves": (), "patch": 1,
    }  # fmt: skip
    found = [
        f"network.{name}: {given[name]}; diffusers supports only {value or 'none'}"
        for name, value in only.items()
        if _listed(given[name]) != _listed(value)
    ]
    others = sorted(task.conditions.keys() - {"class"})
    bare = given["middle_attention"] and not given["middle_norm"]
    if sizes[0] != given["width"]:
        found.append(f"network.multipliers: {given['multipliers']}; diffusers requires 1 first")
    if given["resample"] == "pool":
        found.append("network.resample: pool; diffusers supports only conv or residual")
    if others:
        found.append(f"task: conditions {', '.join(others)}; diffusers supports only class")
    if uneven:
        name = "heads" if given["heads"] else "head_channels"
        found.append(
            f"network.{name}: {given[name]}; diffusers requires one head width for all layers, or "
            "a single head"
        )
    if bare and given["adaptive"] != "scale_shift":
        found.append("network.middle_norm: false requires adaptive: scale_shift in diffusers")
    return found


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _head(given: Mapping[str, Any], attending: set[int]) -> tuple[int | None, bool]:
    """Channels of a head, None for one head; and whether layers differ in it."""
    counts = {c: heads_of(c, given["heads"], given["head_channels"]) for c in attending}
    widths = {c // count for c, count in counts.items()}
    if given["heads"] is None and widths <= {given["head_channels"] or HEAD}:
        return given["head_channels"] or HEAD, False
    if all(count == 1 for count in counts.values()):
        return None, False
    return min(widths), len(widths) > 1


def _scheduler(request: TrainRequest, outputs: int) -> tuple[list[str], dict[str, Any]]:
    """Problems, a sentence each, and the options of DDPMScheduler."""
    process, meaning = request.process, request.parameterization
    tables = ("core/beta_table", "core/cosine_table", "core/custom_table")
    problems = []
    if process.name not in tables:
        problems.append(f"process: {process.name}; diffusers requires one of {', '.join(tables)}")
    if meaning.name not in PREDICTIONS:
        problems.append(
            f"parameterization: {meaning.name}; diffusers requires one of {', '.join(PREDICTIONS)}"
        )
    steps = _steps(process.name, process.options)
    level, chain, unit = (meaning.options.get(key) for key in ("level", "chain", "unit"))
    if level != "index" or (chain or 1000) != steps or (unit or 1.0) != 1.0:
        problems.append(
            f"parameterization: level {level}, chain {chain}, unit {unit}; diffusers requires the "
            f"index in the chain of {steps} steps"
        )
    if problems:
        return problems, {}
    return [], diffusers.CHAIN | {
        "num_train_timesteps": steps,
        **_betas(process.name, process.options),
        "prediction_type": PREDICTIONS[meaning.name],
        "variance_type": "learned_range" if outputs == 2 else "fixed_small",
        "clip_sample": True,
    }


def _steps(name: str, options: Mapping[str, Any]) -> int:
    return len(options["betas"]) if name == "core/custom_table" else options.get("steps", 0)


def _betas(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A table as options of a scheduler: by name where it has one, else number by number."""
    zero = {"rescale_betas_zero_snr": bool(options["zero_terminal_snr"])}
    if name == "core/beta_table":
        ends = {key: options[key] for key in ("beta_start", "beta_end")}
        return {"beta_schedule": SHAPES[options["shape"]]} | ends | zero
    if name == "core/custom_table":
        return {"trained_betas": list(options["betas"])} | zero
    if (options["offset"], options["beta_max"]) == (0.008, 0.999):
        return {"beta_schedule": "squaredcos_cap_v2"} | zero
    return {"trained_betas": _table(name, options)} | zero


def _table(name: str, options: Mapping[str, Any]) -> list[float]:
    """The betas of a table without a name there, before it is made to end in noise."""
    spec = Spec(name, {**options, "zero_terminal_snr": False})
    process: GaussianPath = configure("process", spec)()
    steps = options["steps"]
    nodes = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = process.alpha_sigma(nodes)[0] ** 2
    return (1 - kept[1:] / kept[:-1]).tolist()
