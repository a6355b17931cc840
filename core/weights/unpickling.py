"""The one place where a pickle is read: a process of its own, limited, that only makes tensors.

Called by `core.weights.read` through `core.storage.limited_process`, never imported.
torch's restricted unpickler rebuilds tensors and plain containers and refuses every other name.
What it gives is checked, then written as safetensors; the answer lists what was found, or the
reason of a refusal.  The limits are the second wall, should the unpickler have a hole: memory in
proportion to the file, processor time, size of written files, no new processes, no environment.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

# Entries of training checkpoints that hold a network's weights, the averaged ones first.
ENTRIES = (
    "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema",
    "state_dict", "model_state_dict", "model", "network", "net", "unet",
)  # fmt: skip


class Refused(Exception):
    """The file does not hold plain tensors."""


def pick(found: object, entry: str) -> tuple[str, Mapping[str, Any]]:
    """The mapping of names to tensors in what a file holds, and the name it was under."""
    if not isinstance(found, Mapping):
        raise Refused(f"holds a {type(found).__name__}, not a mapping of names to tensors")
    if entry:
        if not isinstance(found.get(entry), Mapping):
            raise Refused(f"has no mapping named {entry!r}; it has {listed(found)}")
        return entry, found[entry]
    if any(isinstance(value, Tensor) for value in found.values()):
        return "", found
    for name in ENTRIES:
        if isinstance(found.get(name), Mapping):
            return name, found[name]
    raise Refused(f"has no mapping of names to tensors; it has {listed(found)}")


def listed(names: Any, most: int = 5) -> str:
    """Some names, cut to what fits a line."""
    shown = [repr(str(name)[:60]) for _, name in zip(range(most), names, strict=False)]
    return (", ".join(shown) or "nothing") + (", ..." if len(names) > most else "")


def checked(named: Mapping[str, Any], size: int) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors, each with memory of its own, no larger together than the file allows.

    A tensor may claim to be any size over a memory of one element; none is copied before all that
    is claimed is known.
    """
    strange = [
        name
        for name, value in named.items()
        if type(name) is not str
        or type(value) not in (Tensor, torch.nn.Parameter)
        or value.layout is not torch.strided
        or value.device.type != "cpu"
        or value.is_quantized
        or value.is_complex()
    ]
    if strange:
        raise Refused(f"has entries that are not plain tensors: {listed(strange)}")
    claimed = sum(value.numel() * value.element_size() for value in named.values())
    if claimed > 2 * size:
        raise Refused(f"claims {claimed:,} bytes of tensors in a file of {size:,}")
    seen: set[int] = set()
    whole = {}
    for name, value in named.items():
        storage = value.untyped_storage()
        own = storage.nbytes() == value.numel() * value.element_size() and value.is_contiguous()
        own = own and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        whole[name] = value.detach() if own else value.detach().contiguous().clone()
    return whole


def reason(error: BaseException) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return "requires more memory than a file of its size needs"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = str(error)
    for pattern, words in (
        (r"GLOBAL ([\w.]+)", "refers to {}, which is not needed to make a tensor"),
        (r"Unsupported class ([\w.]+)", "refers to {}, which is not needed to make a tensor"),
        (r"Unsupported operand (\d+)", "has an instruction ({}) that no tensor needs"),
    ):
        found = re.search(pattern, text)
        if found:
            return words.format(found[1][:80])
    return f"cannot be read as weights ({type(error).__name__})"


def read(source: str, target: str, entry: str) -> dict[str, Any]:
    """Convert; the entry that was read, and the others."""
    # Weights only, always: there is no second attempt with more trust.
    found = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251
    taken, named = pick(found, entry)
    tensors = checked(named, os.stat(source).st_size)
    if not tensors:
        raise Refused("has no tensors")
    save_file(tensors, target)
    left = [str(name)[:60] for name in found if taken and name != taken][:20]
    return {"taken": taken, "left": left}


def work(begin: Callable[[], None], source: str, target: str, entry: str) -> dict[str, Any]:
    """The entry that was read and the others, with ``ok``, or ``why`` there is none."""
    torch.set_num_threads(1)
    sys.setrecursionlimit(500)
    begin()
    try:
        return {"ok": True, **read(source, target, entry)}
    except Exception as error:  # noqa: BLE001  (whatever a hostile file raises is its refusal)
        return {"ok": False, "why": reason(error)}
