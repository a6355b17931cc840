"""Cartesian k-space of ISMRMRD's HDF5 files, read by their layout, without its library.

Source: Inati et al. 2017, Magn. Reson. Med. 77, 411; the layout is that of its reference
implementation: a group with ``xml``, the header, and ``data``, a table of acquisitions, a line of
k-space each.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Complex64

from core.errors import InputError
from core.scans.claims import check_claim, reason
from plugins.medical.io import plausible
from plugins.medical.io.acquisition import KSpace
from plugins.medical.io.hdf5 import dataset_of, group_of

NOISE, CALIBRATION, BOTH, REVERSED = 19, 20, 21, 22  # numbers of flags, from 1
NO_IMAGE = (23, 24, 26, 27, 28, 29, 30, 31)  # navigators, phase corrections, feedback, dummies
CARTESIAN = ("cartesian", "")
ONE = ("contrast", "phase", "repetition", "set")  # counters that make several images
AT_ONCE = 4096  # acquisitions read at a time
LONGEST = 1 << 22  # bytes of the header


@dataclass(frozen=True)
class _Encoding:
    """The header's first encoding: matrix and field of view along x (readout), y and z."""

    matrix: tuple[int, int, int]
    field: tuple[float, float, float]  # millimetres
    wanted: float  # field of view of the image along x
    centres: tuple[int, int]  # kspace_encode_step_1 and _2 of the zero frequency


def group_in(path: Path, file: Any) -> Any:
    """The first group of a file that has ISMRMRD's layout; None if there is none."""
    for name in file:
        group = group_of(path, file, name)
        if group is not None and "xml" in group and "data" in group:
            return group
    return None


def read(path: Path, group: Any) -> KSpace:
    """K-space of slices, coils, the readout as rows and phase encoding as columns.

    Averages are averaged; an oversampled readout is cropped to the field of view.  Partitions of a
    3-D acquisition become slices.  Noise acquisitions give the noise level.

    Raises:
        InputError: not Cartesian, several images in one file, or another layout.
    """
    encoding = _encoding(path, group)
    table = dataset_of(path, group, "data")
    if table is None or table.ndim != 1 or not len(table) or table.dtype.names is None:
        raise InputError(f"{path.name}: data is not ISMRMRD's table of acquisitions")
    heads = table["head"]
    flags = heads["flags"]
    noisy, skipped = _flagged(flags, NOISE), _flagged(flags, *NO_IMAGE)
    alone = _flagged(flags, CALIBRATION) & ~_flagged(flags, BOTH)
    images = ~(noisy | skipped | alone)
    if not images.any():
        raise InputError(f"{path.name}: holds no acquisition of an image")
    _check_images(path, heads[images])
    values = _placed(path, table, heads, images, encoding)
    noise = _noise(table, heads, noisy, images)
    notes = tuple(
        f"{int(which.sum())} acquisitions of {what} were not used"
        for which, what in ((alone, "calibration alone"), (skipped, "no image"))
        if which.any()
    )
    values, mask = _one_mask(path, values)
    values, mask = _cropped(values, mask, encoding)
    x, y, _ = encoding.matrix
    plausible.check_centred(path.name, values)
    pixel = (encoding.field[0] / x, encoding.field[1] / y)
    return KSpace(values, mask, noise, notes, pixel_mm=pixel if min(pixel) > 0 else None)


# --- the header ----------------------------------------------------------------------------------


def patient(path: Path, group: Any) -> str:
    """PatientID of the header; empty where it has none.

    Raises:
        InputError: the header cannot be read.
    """
    return _header(path, group).findtext("subjectInformation/patientID", "").strip()


def _header(path: Path, group: Any) -> ElementTree.Element:
    stored = dataset_of(path, group, "xml")
    text = stored[()] if stored is not None and stored.size == 1 else b""
    text = text if isinstance(text, bytes | str) else text.reshape(-1)[0]
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    if len(text) > LONGEST or "<!" in re.sub("<!--.*?-->", "", text, flags=re.S):
        raise InputError(f"{path.name}: its XML header declares a document type; expected none")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path.name}: its XML header is not valid: {reason(error)}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _encoding(path: Path, group: Any) -> _Encoding:
    root = _header(path, group)
    kinds = [one.findtext("trajectory", "").strip().lower() for one in root.findall("encoding")]
    if not kinds or kinds[0] not in CARTESIAN:
        found = kinds[0] if kinds else "no encoding"
        raise InputError(
            f"{path.name}: its trajectory is {found[:20]!r}; expected 'cartesian'; give other "
            "k-space as .npy with a trajectory in its JSON"
        )
    first = root.find("encoding")
    assert first is not None

    def numbers(place: str, kind: type) -> tuple[Any, ...]:
        return tuple(kind(float(first.findtext(f"{place}/{axis}", "0"))) for axis in "xyz")

    try:
        matrix = numbers("encodedSpace/matrixSize", int)
        field = numbers("encodedSpace/fieldOfView_mm", float)
        wanted = numbers("reconSpace/fieldOfView_mm", float)[0]
        limits = "encodingLimits/kspace_encoding_step_"
        centres = [
            int(first.findtext(f"{limits}{step}/center", str(matrix[step] // 2))) for step in (1, 2)
        ]
    except ValueError as error:
        raise InputError(f"{path.name}: its XML header has no numbers: {reason(error)}") from error
    if min(matrix) < 1 or not np.isfinite([*field, wanted]).all():
        raise InputError(f"{path.name}: its XML header states no encoded matrix")
    return _Encoding(matrix, field, wanted, (centres[0], centres[1]))


# --- acquisitions --------------------------------------------------------------------------------


def _flagged(flags: np.ndarray, *numbers: int) -> Bool[np.ndarray, " n"]:
    bits = np.uint64(sum(1 << (number - 1) for number in numbers))
    return (flags & bits) != 0


def _check_images(path: Path, heads: np.ndarray) -> None:
    """Refuse what is more than one image: repetitions, contrasts; and lines read backwards."""
    several = {name: len(np.unique(heads["idx"][name])) for name in ONE}
    wrong = [f"{count} {name}s" for name, count in several.items() if count > 1]
    if wrong:
        raise InputError(
            f"{path.name}: holds {', '.join(wrong)}; expected one image of each slice: write one "
            "of them to a file of its own"
        )
    if len(np.unique(heads["encoding_space_ref"])) > 1:
        raise InputError(f"{path.name}: holds several encoding spaces; expected one")
    if _flagged(heads["flags"], REVERSED).any():
        raise InputError(
            f"{path.name}: has lines read backwards (echo-planar); expected Cartesian k-space "
            "whose lines are read forwards"
        )
    if len(sizes := Counter(zip(*_sizes(heads), strict=True))) > 1:
        raise InputError(f"{path.name}: its lines have {len(sizes)} sizes; expected one")


def _sizes(heads: np.ndarray) -> tuple[list[int], list[int]]:
    return heads["number_of_samples"].tolist(), heads["active_channels"].tolist()


def _placed(
    path: Path, table: Any, heads: np.ndarray, images: np.ndarray, encoding: _Encoding
) -> Complex64[np.ndarray, " d c h w"]:
    """Every line at its place in the encoded matrix, averages averaged; 0 elsewhere."""
    width, height, depth = encoding.matrix  # along x, y and z
    chosen = np.flatnonzero(images)
    first = heads[chosen[0]]
    samples, coils = int(first["number_of_samples"]), int(first["active_channels"])
    at = heads["idx"]
    slices = int(at["slice"][images].max()) + 1
    if depth > 1 and slices > 1:
        raise InputError(f"{path.name}: holds {slices} slabs of a 3-D acquisition; expected one")
    check_claim(path, (slices * depth, coils, width, height), 24)
    k = np.zeros((slices, depth, coils, width, height), np.complex64)
    count = np.zeros((slices, depth, 1, width, height), np.float32)
    begin = width // 2 - int(first["center_sample"])
    wanted, kept = slice(max(0, begin), min(width, begin + samples)), slice(max(0, -begin), None)
    for start in range(0, len(chosen), AT_ONCE):
        rows = chosen[start : start + AT_ONCE]
        lines = table[rows.tolist()]["data"]
        for number, line in zip(rows.tolist(), lines, strict=True):
            y = int(at["kspace_encode_step_1"][number]) - encoding.centres[0] + height // 2
            z = int(at["kspace_encode_step_2"][number]) - encoding.centres[1] + depth // 2
            z = z if depth > 1 else 0
            if not (0 <= y < height and 0 <= z < depth) or len(line) != 2 * samples * coils:
                raise InputError(f"{path.name}: acquisition {number} lies outside of the matrix")
            values = line.view(np.complex64).reshape(coils, samples)[:, kept]
            place = (int(at["slice"][number]), z)
            k[place][:, wanted, y] += values[:, : wanted.stop - wanted.start]
            count[place][:, wanted, y] += 1
    k /= np.maximum(count, 1)
    if not np.isfinite(k).all():
        raise InputError(f"{path.name}: some values are not finite")
    if depth == 1:
        return k[:, 0]
    if not (count == count[:, :1]).all():
        raise InputError(
            f"{path.name}: its partitions are sampled differently; expected one mask for all, so "
            "that the volume falls into slices"
        )
    return _transformed(k[0], 0) * (count[0] > 0)


def _noise(table: Any, heads: np.ndarray, noisy: np.ndarray, images: np.ndarray) -> float:
    """Standard deviation of the noise of one part of a sample, of noise acquisitions; 0 of none.

    Its variance is inverse to the time of a sample, and to the number of averages.
    """
    if not noisy.any():
        return 0.0
    first = np.flatnonzero(noisy).tolist()[:64]
    values = np.concatenate([np.asarray(line) for line in table[first]["data"]])
    times = [heads["sample_time_us"][which] for which in (first[0], np.flatnonzero(images)[0])]
    ratio = float(times[0] / times[1]) if min(times) > 0 else 1.0
    averages = len(np.unique(heads["idx"]["average"][images]))
    std = float(np.std(values, dtype=np.float64))
    return std * (ratio / averages) ** 0.5 if np.isfinite(std) else 0.0


def _one_mask(
    path: Path, values: Complex64[np.ndarray, " d c h w"]
) -> tuple[Complex64[np.ndarray, " d c h w"], Bool[np.ndarray, " h w"]]:
    there = (values != 0).any(1)
    there = there[there.any((1, 2))]  # slices that were never measured say nothing
    mask = there.any(0)
    if not mask.any():
        raise InputError(f"{path.name}: every sampled frequency is 0; expected measured k-space")
    if (there != mask).mean() > 0.01:  # single zeros are chance
        raise InputError(f"{path.name}: its slices are sampled differently; expected one mask")
    return values, mask


def _cropped(
    values: Complex64[np.ndarray, " d c h w"], mask: Bool[np.ndarray, " h w"], encoding: _Encoding
) -> tuple[Complex64[np.ndarray, " d c n w"], Bool[np.ndarray, " n w"]]:
    """The readout's field of view of the image, where whole lines were read."""
    width, wide = encoding.matrix[0], encoding.field[0]
    fewer = round(width * encoding.wanted / wide) if wide > 0 and encoding.wanted > 0 else width
    if not 1 <= fewer < width or not (mask == mask.any(0)).all():
        return values, mask
    image = _transformed(values, 2)
    begin = width // 2 - fewer // 2
    image = image[:, :, begin : begin + fewer]
    back = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, 2), axis=2, norm="ortho"), 2).astype(
        np.complex64
    )
    return back * mask[:fewer], mask[:fewer].copy()


def _transformed(values: np.ndarray, axis: int) -> np.ndarray:
    """The orthonormal inverse transform along an axis, origin in the middle."""
    moved = np.fft.ifft(np.fft.ifftshift(values, axis), axis=axis, norm="ortho")
    return np.fft.fftshift(moved, axis).astype(np.complex64)
