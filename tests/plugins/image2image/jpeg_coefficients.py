"""A decoder of sequential JPEG files down to their whole numbers, written from ITU-T T.81 alone."""

import struct

import numpy as np

ZIGZAG = sorted(
    range(64), key=lambda k: (k // 8 + k % 8, k // 8 if (k // 8 + k % 8) % 2 else k % 8)
)


class Bits:
    """The entropy-coded bits, read one number after the other."""

    def __init__(self, data):
        self.bits = "".join(f"{byte:08b}" for byte in data.replace(b"\xff\x00", b"\xff"))
        self.at = 0

    def take(self, count):
        self.at += count
        return int("0" + self.bits[self.at - count : self.at], 2)

    def symbol(self, codes):
        """Annex F.2.2.3: the shortest code that the bits begin with."""
        value = 0
        for length in range(1, 17):
            value = 2 * value + self.take(1)
            if (length, value) in codes:
                return codes[length, value]
        raise AssertionError("no such code")

    def number(self, size):
        """Annex F.2.2.1: a number of so many bits, those below half negative."""
        value = self.take(size)
        return value if not size or value >> (size - 1) else value - (1 << size) + 1


def codes_of(body):
    """Annex C: the codes of a table, by length and value."""
    code, at, codes = 0, 16, {}
    for length, count in enumerate(body[:16], 1):
        for _ in range(count):
            codes[length, code] = body[at]
            code, at = code + 1, at + 1
        code *= 2
    return codes, body[at:]


def coefficients(data):
    """Each component's numbers, whole blocks in their places, and its quantisation table."""
    at, tables, huffman, parts, coded = 2, {}, {}, [], {}
    height = width = 0
    while not coded:
        marker, length = struct.unpack(">HH", data[at : at + 4])
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xFFDB:
            while body:
                wide = body[0] >> 4  # steps of two bytes
                steps = np.frombuffer(body[1 : 65 + 64 * wide], ">u2" if wide else "u1")
                tables[body[0] & 15] = steps.astype(int)[np.argsort(ZIGZAG)].reshape(8, 8)
                body = body[65 + 64 * wide :]
        elif marker in (0xFFC0, 0xFFC1):  # baseline, or with steps of two bytes
            height, width, count = struct.unpack(">HHB", body[1:6])
            named = [body[i : i + 3] for i in range(6, 6 + 3 * count, 3)]
            parts = [(name, both >> 4, both & 15, table) for name, both, table in named]
        elif marker == 0xFFC4:
            while body:
                name = body[0]
                huffman[name], body = codes_of(body[1:])
        elif marker == 0xFFDA:
            for i in range(1, 1 + 2 * body[0], 2):
                coded[body[i]] = huffman[body[i + 1] >> 4], huffman[16 + (body[i + 1] & 15)]
    if len(parts) == 1:
        parts = [(parts[0][0], 1, 1, parts[0][3])]
    across, down = max(part[1] for part in parts), max(part[2] for part in parts)
    rows, columns = -(-height // (8 * down)), -(-width // (8 * across))
    found = {part[0]: np.zeros((8 * rows * part[2], 8 * columns * part[1]), int) for part in parts}
    bits, last = Bits(data[at:-2]), dict.fromkeys(found, 0)
    for cell in range(rows * columns):
        for name, h, v, _ in parts:
            for place in range(h * v):
                block = _block(bits, *coded[name])
                block[0] += last[name]
                last[name] = block[0]
                top = 8 * (cell // columns * v + place // h)
                left = 8 * (cell % columns * h + place % h)
                found[name][top : top + 8, left : left + 8] = np.reshape(block, (8, 8))
    return list(found.values()), [tables[part[3]] for part in parts]


def _block(bits, first, others):
    block = [0] * 64
    block[0] = bits.number(bits.symbol(first))
    k = 1
    while k < 64:
        run = bits.symbol(others)
        if run == 0:
            break
        k += run >> 4
        if run & 15:
            block[ZIGZAG[k]] = bits.number(run & 15)
        k += 1
    return block
