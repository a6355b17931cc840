"""Raw measurements: sinograms and k-space as NumPy files with a JSON of geometry, fastMRI's HDF5.

Beside ``scan.npy`` lies ``scan.json``.  Of a sinogram it says ``{"kind": "parallel", "views": 23,
"arc_degrees": 180, "start_degrees": 0, "detector_spacing_mm": 1.0, "height": 128, "width": 128,
"pixel_mm": 1.0, "units": "line_integrals", "photons": 100000}``; ``kind`` may be ``fan``, with
``source_mm`` and ``detector_mm``, and ``units`` may be ``counts``.  Of k-space it says ``{"kind":
"k-space", "noise": 0.005}``, where noise is the deviation of the real and of the imaginary part;
unmeasured frequencies are 0, or a ``mask`` names a file of ones and zeros beside it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Complex64, Float32

from core.errors import InputError
from core.parts.config import bind
from core.storage import files
from plugins.medical.io.claims import check_claim, reason

Form = TypeVar("Form")
HDF5 = (".h5", ".hdf5")
SUFFIXES = (".npy", *HDF5)
Side = Annotated[int, Ge(1), Le(1 << 16)]
Length = Annotated[float, Gt(0), Le(1e6)]
MOST = 20.0  # of a line integral's median: e^-20 of the photons would be left


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a sinogram was measured; angles in degrees, lengths in millimetres.

    Args:
        kind: of the beam.
        views: how many angles.
        height: of the picture to be made, in pixels.
        width: of it.
        pixel_mm: side of a pixel.
        detector_spacing_mm: between two detectors.
        arc_degrees: that the angles are spread over evenly, its end left out.
        start_degrees: the first angle.
        source_mm: of a fan, its source's distance from the middle.
        detector_mm: of a fan, its detector's.
        units: ``line_integrals`` of attenuation, or ``counts`` of photons.
        photons: that a detector counts without an object; 0 where it is not known.
    """

    kind: Literal["parallel", "fan"]
    views: Side
    height: Side
    width: Side
    pixel_mm: Length
    detector_spacing_mm: Length
    arc_degrees: Annotated[float, Gt(0), Le(360)] = 180.0
    start_degrees: Annotated[float, Ge(-360), Le(360)] = 0.0
    source_mm: Length = 500.0
    detector_mm: Annotated[float, Ge(0), Le(1e6)] = 500.0
    units: Literal["line_integrals", "counts"] = "line_integrals"
    photons: Annotated[float, Ge(0), Le(1e15)] = 0.0


@dataclass(frozen=True, kw_only=True)
class _KSpaceFile:
    """What the JSON beside a file of k-space says."""

    kind: Literal["k-space"]
    noise: Annotated[float, Ge(0), Le(1e9)] = 0.0
    mask: str | None = None


@dataclass(frozen=True, eq=False)
class Sinogram:
    """What a scanner of X-rays measured.

    Args:
        values: slices, views, detectors.
        geometry: how.
    """

    values: Float32[np.ndarray, " d v n"]
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class KSpace:
    """What a scanner of magnetic resonance measured, its zero frequency in the middle.

    Args:
        values: slices, coils, rows, columns; 0 where not measured.
        mask: which frequencies were measured, of every slice and coil.
        noise: deviation of the real and of the imaginary part; 0 where it is not known.
    """

    values: Complex64[np.ndarray, " d c h w"]
    mask: Bool[np.ndarray, " h w"]
    noise: float = 0.0


def read(path: Path) -> "Sinogram | KSpace":
    """Whichever of the two a file holds.

    Raises:
        InputError: it cannot be read, or its JSON says neither.
    """
    if path.suffix.lower() in HDF5 or _described(path).get("kind") == "k-space":
        return read_kspace(path)
    return read_sinogram(path)


def read_sinogram(path: Path) -> Sinogram:
    """The sinogram in a ``.npy`` file with its JSON.

    Raises:
        InputError: either cannot be read, or they do not fit together.
    """
    said = _described(path)
    geometry = _bound(path, Geometry, said)
    values = _array(path, "f")
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != geometry.views:
        raise InputError(
            f"{path.name}: {_by(values.shape)} numbers; its geometry says {geometry.views} views: "
            "expected views x detectors, or slices x views x detectors"
        )
    if geometry.units == "counts":
        if not geometry.photons:
            raise InputError(
                f"{path.name}: counts want the photons of an empty beam; add photons to its JSON"
            )
        if (values < 0).any():
            raise InputError(f"{path.name}: counts below 0; are these line integrals?")
    elif float(np.median(values)) > MOST:
        raise InputError(
            f"{path.name}: half of the line integrals are above {MOST:g}, through which no X-ray "
            "passes; if these are counts of photons, say units: counts and photons in its JSON"
        )
    return Sinogram(values, geometry)


def write_sinogram(path: Path, sinogram: Sinogram) -> None:
    """Write a ``.npy`` file and its JSON."""
    _write(path, sinogram.values, asdict(sinogram.geometry))


def read_kspace(path: Path) -> KSpace:
    """K-space in a ``.npy`` file with its JSON, or in a file of fastMRI's layout (``.h5``).

    Raises:
        InputError: it cannot be read, or mask and k-space do not fit together.
    """
    if path.suffix.lower() in HDF5:
        return _fastmri(path)
    said = _described(path)
    about = _bound(path, _KSpaceFile, said)
    values = _array(path, "c")
    if not 2 <= values.ndim <= 4:
        raise InputError(f"{path.name}: {_by(values.shape)} numbers; expected slices, coils, h, w")
    values = values.reshape(*[1] * (4 - values.ndim), *values.shape)
    mask = _mask(path, about.mask, values)
    return KSpace(values * mask, mask, about.noise)


def write_kspace(path: Path, kspace: KSpace) -> None:
    """Write a ``.npy`` file and its JSON; the mask is where values are not 0."""
    _write(path, kspace.values, {"kind": "k-space", "noise": kspace.noise})


# --- NumPy and JSON ------------------------------------------------------------------------------


def _described(path: Path) -> Mapping[str, Any]:
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > 1 << 20:
            raise InputError(f"{beside.name}: too long for a description of a measurement")
        said = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{beside.name}: cannot be read: {error.strerror}; beside {path.name} lies a JSON file "
            "that says how it was measured"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{beside.name}: no JSON: {error}") from error
    if not isinstance(said, dict):
        raise InputError(f"{beside.name}: expected names and values")
    return said


def _bound(path: Path, form: type[Form], said: Mapping[str, Any]) -> Form:
    """What a JSON file says as it is to be said, or every problem with it."""
    try:
        return bind(form, said)
    except InputError as error:
        name = path.with_suffix(".json").name
        lines = str(error).splitlines()
        raise InputError("\n".join(f"{name}: {line}" for line in lines)) from error


def _array(path: Path, kind: Literal["f", "c"]) -> np.ndarray:
    """Real or complex numbers of a NumPy file; its size is looked at before it is read."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            head = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if head is None:
                raise InputError(f"{path.name}: NumPy format {version}; expected 1.0 or 2.0")
            shape, _, dtype = head(file)
            start = file.tell()
        wanted = "iuf" if kind == "f" else "iufc"
        if dtype.kind not in wanted or dtype.hasobject:
            raise InputError(f"{path.name}: holds {dtype}; expected numbers")
        check_claim(path, tuple(shape), 16)
        held, claimed = path.stat().st_size - start, math.prod(shape) * dtype.itemsize
        if held < claimed:
            raise InputError(f"{path.name}: is cut off after {held:,} of {claimed:,} bytes")
        values = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: no NumPy file that can be read: {reason(error)}") from error
    return _finite(path, values.astype(np.float32 if kind == "f" else np.complex64))


def _finite(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        lost = int((~np.isfinite(values)).sum())
        raise InputError(f"{path.name}: {lost} of its numbers are infinite or none; mend them")
    return values


def _mask(path: Path, name: str | None, values: np.ndarray) -> np.ndarray:
    if name is None:
        return (values != 0).any((0, 1))
    given = files.inside(path.parent, name)
    mask = _array(given, "f") if given.is_file() else None
    if mask is None:
        raise InputError(f"{path.with_suffix('.json').name}: mask: no file {given.name} beside it")
    if mask.ndim == 1:
        mask = np.broadcast_to(mask, values.shape[-2:][:1] + mask.shape)
    if mask.shape != values.shape[-2:]:
        raise InputError(
            f"{given.name}: a mask of {_by(mask.shape)} for k-space of {_by(values.shape[-2:])}"
        )
    if not np.isin(mask, (0, 1)).all():
        raise InputError(f"{given.name}: expected ones (measured) and zeros only")
    return mask.astype(bool)


def check_place(path: Path) -> None:
    """Refuse a place that a measurement cannot be written to.

    Raises:
        InputError: another suffix, a folder of that name, or no folder to write to.
    """
    if path.suffix != ".npy":
        raise InputError(f"{path}: expected a name that ends in .npy")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: no folder to write to, or a folder itself; name another place")


def _write(path: Path, values: np.ndarray, said: Mapping[str, Any]) -> None:
    check_place(path)
    try:
        with files.replaced(path) as waiting, waiting.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        files.write_json(path.with_suffix(".json"), dict(said))
    except OSError as error:
        remains = "older files are unchanged"
        raise files.not_written(path, error, needed=values.nbytes, remains=remains) from error


# --- fastMRI -------------------------------------------------------------------------------------


def _fastmri(path: Path) -> KSpace:
    """K-space of fastMRI's layout: slices, coils, rows, columns; or no coils.

    Source: Zbontar et al. 2018, arXiv:1811.08839, section 4.
    """
    values, mask = read_fastmri(path)
    return KSpace(values, (values != 0).any((0, 1)) if mask is None else mask)


def read_fastmri(
    path: Path, *, slices: slice = slice(None)
) -> tuple[Complex64[np.ndarray, " d c h w"], Bool[np.ndarray, " h w"] | None]:
    """K-space of some slices, and the mask of a file of the test set.

    Links out of the file, storage outside it and virtual datasets are not followed.

    Raises:
        InputError: no such layout, or more than the memory holds.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = _dataset(path, file, "kspace")
            if stored is None:
                raise InputError(f"{path.name}: has no dataset named kspace; expected fastMRI's")
            if stored.dtype.kind != "c" or stored.ndim not in (3, 4):
                raise InputError(
                    f"{path.name}: kspace of {stored.dtype} and {_by(stored.shape)}; expected "
                    "complex numbers: slices, coils, rows, columns"
                )
            check_claim(path, tuple(stored.shape), 16)
            values = np.asarray(stored[slices], np.complex64)
            masks = _dataset(path, file, "mask")
            mask = None if masks is None else np.asarray(masks[...])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: no HDF5 file that can be read: {reason(error)}") from error
    values = values[:, None] if values.ndim == 3 else values
    if mask is not None:
        if mask.shape != values.shape[-1:]:
            raise InputError(
                f"{path.name}: a mask of {_by(mask.shape)} for k-space of {_by(values.shape)}"
            )
        mask = np.broadcast_to(mask.astype(bool), values.shape[-2:]).copy()
    return _finite(path, values), mask


def fastmri_patient(path: Path) -> str:
    """Whose a file says it is; empty where it does not say or cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("patient_id", ""))
    except Exception:  # noqa: BLE001  (damaged in one of many ways; said where it is read)
        return ""


def lodopab(
    path: Path, number: int | None = None
) -> tuple[int, Float32[np.ndarray, " h w"] | None]:
    """How many slices a ground-truth file of LoDoPaB-CT holds, and one of them in HU.

    Source: Leuschner et al. 2021, Scientific Data 8, 109: attenuation over 81.35858 / m, water 20
    and air 0.02 / m.

    Raises:
        InputError: no such layout.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = _dataset(path, file, "data")
            if stored is None or stored.ndim != 3 or stored.dtype.kind != "f":
                raise InputError(f"{path.name}: expected data: slices, rows, columns")
            check_claim(path, tuple(stored.shape[1:]), 8)
            count = int(stored.shape[0])
            found = None if number is None else np.asarray(stored[number], np.float32)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: no HDF5 file that can be read: {reason(error)}") from error
    if found is None:
        return count, None
    return count, (_finite(path, found) * np.float32(81.35858) - 20) / np.float32(19.98) * 1000


def _dataset(path: Path, file: Any, name: str) -> Any:
    """A dataset that the file itself holds, or None."""
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path.name}: {name} is a link; expected the data themselves")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path.name}: {name} is no dataset")
    if found.external or found.is_virtual:
        raise InputError(f"{path.name}: {name} is kept in other files; expected it in this one")
    return found


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
