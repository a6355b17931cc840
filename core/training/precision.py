"""Mixed precision: number formats of a network's arithmetic, and whether a device supports them.

Weights, their averages and the optimizer stay in float32; matrix products and convolutions compute
in `bf16` or `fp16`.  The format changes a run's numbers, so the request names it.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from core.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Check before a run starts that a device supports a format at full speed.

    Raises:
        InputError: it does not.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"precision: 'fp16' requires a CUDA GPU, the device is {device.type}. "
            "Use --device cuda, or precision fp32"
        )
    if precision == "bf16" and device.type == "cpu" and not _cpu_has_bf16():
        raise InputError(
            "precision: 'bf16' requires a CPU with AVX512-BF16 or AMX; this one emulates it, "
            "tens of times slower than fp32; use precision fp32, or a GPU"
        )
    if precision == "bf16" and device.type == "cuda" and not _cuda_has_bf16():
        raise InputError(
            "precision: 'bf16' requires an Ampere GPU or newer; use precision fp16 or fp32"
        )


def _cpu_has_bf16() -> bool:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent on other processors
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def _cuda_has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A block in which networks compute in a format."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """A block in which cuDNN takes algorithms that give the same bits every time.

    Without it, gradients of float32 convolutions on a GPU differ from run to run.
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def scaler_of(precision: str, device: torch.device) -> "torch.amp.GradScaler | None":
    """The loss scaler that keeps small gradients of `fp16` from underflow; None for other formats.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
