"""Raw measurements: sinograms and k-space, as NumPy files with a JSON, or HDF5 (fastMRI, ISMRMRD).

``scan.npy`` needs ``scan.json`` beside it.  For a sinogram: ``{"kind": "parallel", "views": 23,
"arc_degrees": 180, "start_degrees": 0, "detector_spacing_mm": 1.0, "height": 128, "width": 128,
"pixel_mm": 1.0, "units": "line_integrals", "photons": 100000}``; ``kind`` may be ``fan``, with
``source_mm`` and ``detector_mm``, and ``units`` may be ``counts``; ``detector_offset_mm`` is where
the middle of the detector lies from the axis of rotation, or ``axis_detector`` the detector that
the axis falls on; ``angles_degrees`` lists angles that are not even.  ``scale`` times the values
are line integrals, and ``water_per_mm`` is water's attenuation: of LoDoPaB-CT's observations
81.35858 and 0.02.

For k-space: ``{"kind": "k-space", "noise": 0.005, "pixel_mm": [1.0, 1.0]}``, where noise is the
standard deviation of the real and imaginary part each, and pixel_mm the distance of the image's
rows and columns (optional); frequencies not sampled are 0, or a ``mask`` names a file of ones and
zeros beside it.  An array of three axes states which they are: ``"axes": ["slices", "rows",
"columns"]``.  ``partitions`` in place of slices are those of a 3-D acquisition, and transformed.
Samples along a trajectory, such as spokes and spirals, state ``"trajectory": "where.npy"``, two
frequencies for each sample, along rows and columns, from -0.5 to 0.5 cycles per pixel (readouts x
samples x 2, or samples x 2), with ``height`` and ``width`` of the image; the array's axes are
slices, coils and samples.

A frequency that is exactly 0 in every slice and coil counts as not sampled, whatever a mask states:
receivers have noise, so it was padded or left out by the scanner (an elliptical or partial
acquisition).  As a measurement of 0 it would force the image's detail to 0, and estimate the noise
as 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Bool, Complex64, Float32

from core.errors import InputError
from core.parts.config import bind
from core.scans.claims import check_claim, reason
from core.storage import files, json_file
from plugins.medical.io import ismrmrd, plausible
from plugins.medical.io.acquisition import Geometry, KSpace, Length, Side, Sinogram
from plugins.medical.io.hdf5 import dataset_of, opened
from plugins.medical.io.numpy_file import array_of, by, finite
from plugins.medical.request import Beam

Form = TypeVar("Form")
HDF5 = (".h5", ".hdf5")
SUFFIXES = (".npy", *HDF5)
Axis = Literal["slices", "partitions", "coils", "rows", "columns", "samples"]
AXES: tuple[Axis, ...] = ("slices", "coils", "rows", "columns")
ALONG: tuple[Axis, ...] = ("slices", "coils", "samples")  # a trajectory
MOST = 20.0  # largest median of line integrals: e^-20 of the photons would be left


@dataclass(frozen=True, kw_only=True)
class _KSpaceFile:
    """The JSON beside a file of k-space."""

    kind: Literal["k-space"]
    noise: Annotated[float, Ge(0), Le(1e9)] = 0.0
    mask: str | None = None
    axes: tuple[Axis, ...] = ()
    pixel_mm: tuple[Length, Length] | None = None
    trajectory: str | None = None
    height: Side | None = None
    width: Side | None = None


def read(path: Path) -> Sinogram | KSpace:
    """The sinogram or k-space of a file.

    Raises:
        InputError: it cannot be read, or its JSON describes neither.
    """
    if path.suffix.lower() in HDF5 or _described(path).get("kind") == "k-space":
        return read_kspace(path)
    return read_sinogram(path)


def read_sinogram(path: Path) -> Sinogram:
    """The sinogram in a ``.npy`` file with its JSON.

    Raises:
        InputError: either cannot be read, or they disagree, or no scanner measures such values.
    """
    description = _described(path)
    if description.get("kind") == "k-space":
        raise InputError(f"{path.name}: is k-space, expected a sinogram; use reconstruct-mri")
    geometry = _bound(path, Geometry, description)
    _check_geometry(path, geometry, description)
    values = array_of(path, "f")
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1] != geometry.views:
        raise InputError(
            f"{path.name}: has shape {by(values.shape)}, its geometry {geometry.views} views; "
            "expected views x detectors, or slices x views x detectors"
        )
    if geometry.units == "counts":
        if not geometry.photons:
            raise InputError(
                f'{path.name}: units "counts" need "photons", the count of the unattenuated beam '
                "(I0), in the JSON"
            )
        if (values < 0).any():
            raise InputError(f'{path.name}: has negative counts; set units to "line_integrals"?')
    elif float(np.median(values)) * geometry.scale > MOST:
        raise InputError(
            f"{path.name}: the median line integral is above {MOST:g}, where no photon is left; if "
            'these are photon counts, set "units": "counts" and "photons" in the JSON'
        )
    if geometry.axis_detector is not None:
        apart = (values.shape[2] - 1) / 2 - geometry.axis_detector
        offset = apart * geometry.detector_spacing_mm
        geometry = replace(geometry, detector_offset_mm=offset, axis_detector=None)
    notes = plausible.sinogram_notes(path.name, values, geometry)
    return Sinogram(values, geometry, notes)


def _check_geometry(path: Path, geometry: Geometry, stated: Mapping[str, Any]) -> None:
    """Refuse fields that say one thing twice, and angles of other views."""
    twice = {
        "angles_degrees": ("start_degrees", "arc_degrees"),
        "axis_detector": ("detector_offset_mm",),
    }
    name, problems = path.with_suffix(".json").name, []
    for field, others in twice.items():
        if stated.get(field) and (both := [other for other in others if other in stated]):
            problems.append(f"{name}: {field} is in place of {', '.join(both)}; state one")
    count = len(geometry.angles_degrees)
    if count and count != geometry.views:
        problems.append(
            f"{name}: angles_degrees: expected {geometry.views}, as views states, got {count}"
        )
    if not np.isfinite(geometry.angles_degrees).all():
        problems.append(f"{name}: angles_degrees: expected finite numbers")
    if geometry.units == "counts" and geometry.scale != 1:
        problems.append(f"{name}: scale: for line_integrals; counts state photons")
    if problems:
        raise InputError("\n".join(problems))


def write_sinogram(path: Path, sinogram: Sinogram) -> None:
    """Write a ``.npy`` file and its JSON."""
    about = {k: v for k, v in asdict(sinogram.geometry).items() if v not in (None, ())}
    if "angles_degrees" in about:
        about = {k: v for k, v in about.items() if k not in ("start_degrees", "arc_degrees")}
    _write(path, sinogram.values, about)


def read_kspace(path: Path) -> KSpace:
    """K-space in a ``.npy`` file with its JSON, or in a file of fastMRI's layout (``.h5``).

    Raises:
        InputError: it cannot be read, mask and k-space disagree, or its zero frequency is not in
            the middle.
    """
    if path.suffix.lower() in HDF5:
        return _of_hdf5(path)
    description = _described(path)
    if description.get("kind") in get_args(Beam):
        raise InputError(f"{path.name}: is a sinogram, expected k-space; use reconstruct-ct")
    about = _bound(path, _KSpaceFile, description)
    if about.trajectory is not None or about.height is not None or about.width is not None:
        return _along_trajectory(path, about)
    values = _arranged(path, array_of(path, "c"), about.axes)
    plausible.check_centred(path.name, values)
    found = _sampled(path, values, _mask(path, about.mask, values), about.noise)
    return replace(found, pixel_mm=about.pixel_mm)


def kspace_slices(path: Path) -> int:
    """The number of slices of a file of k-space; of fastMRI's the first is read, and checked.

    Raises:
        InputError: as of `read_kspace`.
    """
    if path.suffix.lower() not in HDF5:
        found = read_kspace(path)
        if found.trajectory is not None:
            raise InputError(f"{path.name}: is k-space along a trajectory; expected Cartesian one")
        return len(found.values)
    if (found := _of_ismrmrd(path)) is not None:
        return len(found.values)
    read_fastmri(path, slices=slice(0, 1))
    with opened(path) as file:
        return int(file["kspace"].shape[0])


def write_kspace(path: Path, kspace: KSpace) -> None:
    """Write a ``.npy`` file and its JSON; the mask is where values are nonzero."""
    spaced = {} if kspace.pixel_mm is None else {"pixel_mm": kspace.pixel_mm}
    _write(path, kspace.values, {"kind": "k-space", "noise": kspace.noise, **spaced})


# --- NumPy and JSON ------------------------------------------------------------------------------


def _described(path: Path) -> Mapping[str, Any]:
    beside = path.with_suffix(".json")
    try:
        description = json_file.read(beside, largest=1 << 20)
    except OSError as error:
        raise InputError(
            f"{beside.name}: cannot be read: {error.strerror}; {path.name} needs a JSON file "
            "beside it that describes the measurement"
        ) from error
    except json_file.NotJson as error:
        raise InputError(
            f"{beside.name}: not valid JSON: {error}; expected a description of {path.name}"
        ) from error
    if not isinstance(description, dict):
        raise InputError(f"{beside.name}: expected a JSON object")
    return description


def _bound(path: Path, form: type[Form], description: Mapping[str, Any]) -> Form:
    """The JSON's values checked against `form`; an error lists every problem."""
    try:
        return bind(form, description)
    except InputError as error:
        name = path.with_suffix(".json").name
        lines = str(error).splitlines()
        raise InputError("\n".join(f"{name}: {line}" for line in lines)) from error


def _arranged(path: Path, values: np.ndarray, axes: tuple[Axis, ...]) -> np.ndarray:
    """K-space as slices, coils, rows, columns."""
    shape = by(values.shape)
    if not axes and values.ndim == 3:
        raise InputError(
            f"{path.name}: has shape {shape}, and the first axis may be slices or coils; state in "
            f'{path.with_suffix(".json").name} "axes": ["slices", "rows", "columns"] or ["coils", '
            '"rows", "columns"]'
        )
    partitions = "partitions" in axes
    axes = axes or {2: AXES[2:], 4: AXES}.get(values.ndim, ())
    axes = tuple("slices" if axis == "partitions" else axis for axis in axes)
    if len(axes) != values.ndim or len(set(axes)) < len(axes) or not {*AXES[2:]} <= {*axes}:
        stated = f"axes {', '.join(axes)}" if axes else "no axes stated"
        raise InputError(
            f"{path.name}: has shape {shape} and {stated}; expected rows, columns and, where there "
            "are more axes, slices or coils or both, each once"
        )
    values = values.transpose([axes.index(axis) for axis in AXES if axis in axes])
    missing = tuple(at for at, axis in enumerate(AXES[:2]) if axis not in axes)
    values = np.ascontiguousarray(np.expand_dims(values, missing))
    return _of_partitions(path, values) if partitions else values


def _of_partitions(path: Path, values: np.ndarray) -> np.ndarray:
    """Slices of a 3-D acquisition: the orthonormal transform along its partitions, undone."""
    sampled = (values != 0).any(1)
    if not (sampled == sampled[:1]).all():
        raise InputError(
            f"{path.name}: its partitions are sampled differently; expected one mask for all, so "
            "that the volume falls into slices; sample all partitions, or leave out those that "
            "differ"
        )
    energy = np.square(np.abs(values)).sum((1, 2, 3))
    if energy[0] > plausible.FAR * energy[len(energy) // 2]:
        raise InputError(
            f"{path.name}: the zero frequency of its partitions is at the edges; expected it in "
            f"the middle, at partition {len(energy) // 2}, counted from 0; apply numpy.fft.fftshift"
        )
    moved = np.fft.ifft(np.fft.ifftshift(values, 0), axis=0, norm="ortho")
    found = np.fft.fftshift(moved, 0).astype(np.complex64)
    return found * sampled[:, None]  # rounding, where nothing was sampled


def _sampled(path: Path, values: np.ndarray, mask: np.ndarray | None, noise: float) -> KSpace:
    """K-space with the mask of what was measured, checked, and a note of what only seemed to be."""
    there = (values != 0).any((0, 1))
    if mask is not None:
        there &= mask
    if not there.any():
        raise InputError(f"{path.name}: every sampled frequency is 0; expected measured k-space")
    values = values * there
    notes: tuple[str, ...] = ()
    if mask is not None and (padded := int(mask.sum() - there.sum())):
        notes = (
            f"{padded} of the {int(mask.sum())} frequencies of the mask are exactly 0 in every "
            "slice and coil: taken for not sampled",
        )
    return KSpace(values, there, noise, notes)


def _along_trajectory(path: Path, about: _KSpaceFile) -> KSpace:
    """Samples as slices, coils, 1, samples, with the frequency of each."""
    said = path.with_suffix(".json").name
    if about.trajectory is None or about.height is None or about.width is None or about.mask:
        raise InputError(
            f"{said}: expected trajectory, height and width together, and no mask; height and "
            "width are of the image"
        )
    given = files.inside(path.parent, about.trajectory)
    if not given.is_file():
        raise InputError(f"{said}: trajectory: no file {given.name} beside it")
    trajectory, values = array_of(given, "f"), array_of(path, "c")
    if trajectory.shape[-1:] != (2,) or not (np.abs(trajectory) <= 0.5).all():
        raise InputError(
            f"{given.name}: has shape {by(trajectory.shape)} and values up to "
            f"{np.abs(trajectory).max():.4g}; expected two frequencies for each sample, along rows "
            "and columns, from -0.5 to 0.5 cycles per pixel"
        )
    readouts = len(trajectory) if trajectory.ndim == 3 else 1
    trajectory = np.ascontiguousarray(trajectory.reshape(-1, 2))
    axes = about.axes or {1: ALONG[2:], 3: ALONG}.get(values.ndim, ())
    fits = len(axes) == values.ndim == len(set(axes)) and {"samples"} <= {*axes} <= {*ALONG}
    if not fits or values.shape[axes.index("samples")] != len(trajectory):
        raise InputError(
            f"{path.name}: has shape {by(values.shape)} and {', '.join(axes) or 'no'} axes stated; "
            f"expected the {len(trajectory)} samples of the trajectory and, where there are more "
            "axes, slices or coils or both, each once"
        )
    values = values.transpose([axes.index(axis) for axis in ALONG if axis in axes])
    missing = tuple(at for at, axis in enumerate(ALONG[:2]) if axis not in axes)
    values = np.expand_dims(values, missing)[:, :, None]
    return KSpace(
        np.ascontiguousarray(values), np.ones((1, len(trajectory)), bool), about.noise,
        pixel_mm=about.pixel_mm, trajectory=trajectory, image=(about.height, about.width),
        readouts=readouts,
    )  # fmt: skip


def _mask(path: Path, name: str | None, values: np.ndarray) -> np.ndarray | None:
    if name is None:
        return None
    given = files.inside(path.parent, name)
    mask = array_of(given, "f") if given.is_file() else None
    if mask is None:
        raise InputError(f"{path.with_suffix('.json').name}: mask: no file {given.name} beside it")
    if mask.ndim == 1:
        mask = np.broadcast_to(mask, values.shape[-2:][:1] + mask.shape)
    if mask.shape != values.shape[-2:]:
        raise InputError(
            f"{given.name}: the mask is {by(mask.shape)}, k-space {by(values.shape[-2:])}"
        )
    if not np.isin(mask, (0, 1)).all():
        raise InputError(f"{given.name}: expected a mask of ones (sampled) and zeros")
    return mask.astype(bool)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a measurement is read from: HDF5, or NumPy, its JSON, and those it names."""
    if path.suffix.lower() in HDF5:
        return (path,)
    described = _described(path)
    others = (described.get(name) for name in ("mask", "trajectory"))
    beside = (files.inside(path.parent, name) for name in others if isinstance(name, str))
    return (path, path.with_suffix(".json"), *beside)


def files_beside(path: Path) -> tuple[Path, ...]:
    """`files_of` without what is missing; the file alone where its JSON cannot be used."""
    try:
        return tuple(file for file in files_of(path) if file == path or file.is_file())
    except InputError:
        return (path,)


def check_place(path: Path) -> None:
    """Refuse an output path that a measurement cannot be written to.

    Raises:
        InputError: another suffix, a folder of that name, or no folder to write to.
    """
    if path.suffix != ".npy":
        raise InputError(f"{path}: expected a name that ends in .npy")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: is a folder, or its folder does not exist; give another path")


def _write(path: Path, values: np.ndarray, description: Mapping[str, Any]) -> None:
    check_place(path)
    try:
        with files.replaced(path) as waiting, waiting.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        files.write_json(path.with_suffix(".json"), dict(description))
    except OSError as error:
        remains = "older files are unchanged"
        raise files.not_written(path, error, needed=values.nbytes, remains=remains) from error


# --- fastMRI -------------------------------------------------------------------------------------


def _of_hdf5(path: Path) -> KSpace:
    """K-space of fastMRI's layout: slices, coils, rows, columns, or no coils; or of ISMRMRD's.

    Source: Zbontar et al. 2018, arXiv:1811.08839, section 4.
    """
    if (found := _of_ismrmrd(path)) is not None:
        return found
    values, mask = read_fastmri(path)
    return _sampled(path, values, mask, 0.0)


def _of_ismrmrd(path: Path) -> KSpace | None:
    """K-space of a file of ISMRMRD's layout; None of another one."""
    try:
        with opened(path) as file:
            group = None if "kspace" in file else ismrmrd.group_in(path, file)
            return None if group is None else ismrmrd.read(path, group)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as HDF5: {reason(error)}") from error


def read_fastmri(
    path: Path, *, slices: slice = slice(None)
) -> tuple[Complex64[np.ndarray, " d c h w"], Bool[np.ndarray, " h w"] | None]:
    """K-space of some slices, and the mask of a file of the test set.

    External links, external storage and virtual datasets are not followed.

    Raises:
        InputError: another layout, larger than the memory, or not centred.
    """
    try:
        with opened(path) as file:
            stored = dataset_of(path, file, "kspace")
            if stored is None:
                raise InputError(
                    f"{path.name}: has no dataset kspace, and no group of xml and data; expected "
                    "fastMRI's layout or ISMRMRD's"
                )
            if stored.dtype.kind != "c" or stored.ndim not in (3, 4):
                raise InputError(
                    f"{path.name}: kspace has dtype {stored.dtype} and shape {by(stored.shape)}; "
                    "expected complex numbers: slices, coils, rows, columns"
                )
            check_claim(path, tuple(stored.shape), 16)
            values = np.asarray(stored[slices], np.complex64)
            masks = dataset_of(path, file, "mask")
            mask = None if masks is None else np.asarray(masks[...])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as HDF5: {reason(error)}") from error
    values = values[:, None] if values.ndim == 3 else values
    if mask is not None:
        if mask.shape != values.shape[-1:]:
            raise InputError(
                f"{path.name}: the mask is {by(mask.shape)}, k-space {by(values.shape)}"
            )
        mask = np.broadcast_to(mask.astype(bool), values.shape[-2:]).copy()
    plausible.check_centred(path.name, finite(path, values))
    return values, mask


def hdf5_patient(path: Path) -> str:
    """The attribute patient_id, or ISMRMRD's PatientID; empty where it cannot be read."""
    try:
        with opened(path) as file:
            group = None if "kspace" in file else ismrmrd.group_in(path, file)
            if group is not None:
                return ismrmrd.patient(path, group)
            return str(file.attrs.get("patient_id", ""))
    except Exception:  # noqa: BLE001  (damaged files raise many types; `read_fastmri` reports them)
        return ""


def lodopab(
    path: Path, number: int | None = None
) -> tuple[int, Float32[np.ndarray, " h w"] | None]:
    """Number of slices of a ground-truth file of LoDoPaB-CT, and one of them in HU.

    Source: Leuschner et al. 2021, Scientific Data 8, 109: attenuation over 81.35858 / m, water 20
    and air 0.02 / m.

    Raises:
        InputError: another layout.
    """
    try:
        with opened(path) as file:
            stored = dataset_of(path, file, "data")
            if stored is None or stored.ndim != 3 or stored.dtype.kind != "f":
                raise InputError(f"{path.name}: expected a dataset data: slices, rows, columns")
            check_claim(path, tuple(stored.shape[1:]), 8)
            count = int(stored.shape[0])
            found = None if number is None else np.asarray(stored[number], np.float32)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as HDF5: {reason(error)}") from error
    if found is None:
        return count, None
    return count, (finite(path, found) * np.float32(81.35858) - 20) / np.float32(19.98) * 1000
