"""Numbers that are the same on every machine: weights and inputs need not be stored.

The raw output of a PCG64 is fixed by its algorithm, unlike what libraries make of it.
"""

import hashlib

import numpy as np


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values, uniform in [-1, 1), that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.random.PCG64(seed).random_raw(count)
    whole = (raw >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1
    return whole.astype(np.float32).reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict: matrices keep the size of what passes, norms are near 1, biases small."""
    found = {}
    for name, shape in shapes.items():
        drawn = numbers(name, tuple(shape))
        if len(shape) > 1:
            fan = np.float32(np.sqrt(3 / np.prod(shape[1:])))
            found[name] = drawn * fan
        else:
            found[name] = 0.2 * drawn + np.float32(name.endswith(".weight"))
        found[name] = found[name].astype(np.float32)
    return found
