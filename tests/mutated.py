"""Damaged files for tests of readers: bytes changed, moved, doubled or cut off."""

import numpy as np


def mutated(data, seed):
    """The file with some bytes changed, moved, doubled or cut off; a function of the seed."""
    draw, data = np.random.Generator(np.random.PCG64(seed)), bytearray(data)
    for _ in range(draw.integers(1, 5)):
        size = len(data)
        at = int(draw.integers(size) if draw.random() < 0.5 else draw.integers(min(size, 200)))
        length = int(draw.integers(1, 9))
        match draw.integers(6):
            case 0:
                data[at] ^= 1 << int(draw.integers(8))
            case 1:
                data[at : at + length] = draw.bytes(length)
            case 2:
                data[at : at + length] = bytes([int(draw.choice([0, 255, 127, 128]))]) * length
            case 3:
                del data[at : at + length * int(draw.integers(1, 20))]
            case 4:
                other = int(draw.integers(size))
                data[at:at] = data[other : other + length * 8]
            case 5:
                del data[max(1, at) :]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)
