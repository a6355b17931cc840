"""Weights that the user has from elsewhere: safetensors, looked at before any of it is taken.

The header of such a file states names and shapes.  They are held against the network that the file
is said to be of, and its size against the free memory, before a tensor is read.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from core.errors import InputError, brief
from core.storage import files, memory, tensor_file

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 2  # names of each kind in a message
MOST = 4096  # tensors of a file; the largest networks that are read have some 900
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CONVERT = (
    "convert it on a machine where you trust it: "
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{name}', map_location='cpu', weights_only=True), "
    "'{stem}.safetensors')\""
)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by name, from its header alone.

    Raises:
        InputError: it cannot be read, or is of another format, such as a pickle.
    """
    try:
        with files.open_regular(path) as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if start[8:9] != b"{":
        # The command is copied into a shell, which would obey what a name may hold.
        name = path.name if re.fullmatch(r"\w[\w.-]*", path.name) else "weights.pth"
        remedy = CONVERT.format(name=name, stem=name.split(".")[0])
        raise InputError(
            f"{path}: not a safetensors file; others, such as the pickles .pth and .pt, are not "
            f"read, since reading them can run code; {remedy}"
        )
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names[: MOST + 1]}
    except tensor_file.UNREADABLE as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({str(error).splitlines()[0]}); "
            "get it again from where it came from"
        ) from error
    if len(names) > MOST:
        raise InputError(
            f"{path}: has {len(names):,} tensors, expected {MOST:,} or fewer; give the file of the "
            "network alone"
        )
    return found


def check(found: Shapes, expected: Shapes, title: str, remedy: str) -> None:
    """Refuse a file whose tensors are not those of a network.

    Args:
        found: shapes in the file, without what is known and not used.
        expected: shapes of the network, by the file's names.
        title: clause of what it was read as, with the file.
        remedy: clause of what to do.

    Raises:
        InputError: tensors are missing, surplus or of other shapes; the first ones are named.
    """
    other = [name for name in expected if name in found and found[name] != expected[name]]
    problems = {
        "missing": [name for name in expected if name not in found],
        "surplus": [brief(name)[1:-1] for name in found if name not in expected],
        "of another shape": [f"{n} {found[n]}, expected {expected[n]}" for n in other],
    }
    listed = [f"{kind}: {_first(names)}" for kind, names in problems.items() if names]
    if listed:
        raise InputError(f"{title}: {'; '.join(listed)}; {remedy}")


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def read(path: Path, names: Collection[str]) -> dict[str, Float[Tensor, "..."]]:
    """Tensors of a file in float32.

    Raises:
        InputError: they do not fit into memory, are of another type, or are not finite.
    """
    with safe_open(path, "pt") as file:
        count = sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in names)
        # In float32, and once more while tensors of another type are converted.
        memory.check(
            8 * count,
            f"{path}: {count:,} weights take {8 * count / 2**30:.1f} GiB",
            "use a smaller network",
            free=memory.free(),
        )
        stored = {name: file.get_tensor(name) for name in names}
    for name, value in stored.items():
        if value.dtype not in TYPES:
            raise InputError(
                f"{path}: {name} has the type {value.dtype}; expected float32, float16 or "
                "bfloat16: get the file that was published"
            )
    if problem := tensor_file.not_finite(stored):
        raise InputError(f"{path}: {problem}; get it again from where it came from")
    return {name: value.float() for name, value in stored.items()}
