"""Undersampled k-space as items: of files that were measured so, and of scans made so once.

An item holds ``kspace`` (coils, h, w), 0 where not sampled, ``sensitivities`` (coils, h, w), whose
phase is the image's low-frequency phase, and ``frequencies`` (h, w), the sampling mask.  Images
have bright tissue at 1.  No item holds a frequency that was not measured, in any epoch.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from core.data import Cache, problems_of_split, split_of
from core.errors import InputError
from core.process.noise import derive, generator
from core.scans import identity
from core.scans.request import Plane
from plugins.medical.data.folders import side
from plugins.medical.data.slices import Pose, Slices
from plugins.medical.data.survey import Selection, digest_of, files_of, survey
from plugins.medical.io import raw
from plugins.medical.operators.coils import coils_of, compressed
from plugins.medical.operators.fourier import (
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    white_noise,
)
from plugins.medical.operators.phase import smooth_phase, turned
from plugins.medical.operators.sampling import check, sampling_mask
from plugins.medical.request import Corrupt, SamplingMask

BRIGHT = 99.8  # percentile of the zero-filled magnitude that is scaled to 1
OVERSAMPLED = 1.5  # rows to columns: above it the readout is oversampled, as fastMRI's is twice


@dataclass(frozen=True)
class _File:
    """A file of k-space, and the patient that decides its split and is never shown."""

    path: Path
    patient: str
    slices: int

    @property
    def digest(self) -> str:
        """SHA-256 of the patient."""
        return hashlib.sha256(self.patient.encode()).hexdigest()


class KSpaceFolder:
    """K-space of the files in a folder and its subfolders, undersampled or not, split by patient.

    Files are of fastMRI's layout (``.h5``), their mask inside or zeros where nothing was measured,
    or ``.npy`` with a JSON of k-space (`plugins.medical.io.raw`).  A twice oversampled readout is
    cropped to the field of view where its rows are fully sampled, k-space to its middle `size` x
    `size`: larger pixels, and no frequency interpolated.

    Args:
        root: the folder.
        size: side of k-space, and of the image.
        coils: virtual coils, at most; files of fewer are filled with zeros.
        exclude: names, or paths below the folder, of files and folders to leave out, with ``*`` for
            any letters.
        corrupt: ``refuse`` to start with files that cannot be read, or ``skip`` them.
        test_share: fraction of the patients held out for testing, approximate, since a hash of the
            patient decides; 0 and 1 for folders of one split alone.
        mirror: augmentation: train on every slice and on its mirror image, left and right flipped,
            which is known at the same frequencies.
        cache_gib: memory for files, in GiB, in each process; the least recently used are dropped.

    Raises:
        InputError: an option out of its range, a file that cannot be used, or none on this side.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 128,
        coils: int = 4,
        exclude: tuple[str, ...] = (),
        corrupt: Corrupt = "refuse",
        test_share: float = 0.2,
        mirror: bool = True,
        cache_gib: float = 2.0,
    ) -> None:
        _check(problems_of_split(split), size=size, test_share=test_share)
        if coils < 1:
            raise InputError(f"coils: expected at least 1, got {coils}")
        found, self._refused = _surveyed(root, exclude)
        if not found or (self._refused and corrupt == "refuse"):
            listed = "".join(f"\n  {line}" for line in self._refused)
            wanted = "can be read; mend, remove or leave out: corrupt: skip, or exclude"
            raise InputError(f"{root}: expected files of k-space that {wanted}{listed}")
        self._files = split_of(found, split, test_share, key=lambda one: one.digest)
        if not self._files:
            raise InputError(
                f"{root}: no patient falls into split {split} at test_share {test_share:g}; add "
                "patients or change it"
            )
        self._all, self._share, self._size, self._coils = found, test_share, size, coils
        self._places = [(n, at) for n, one in enumerate(self._files) for at in range(one.slices)]
        self._kept = Cache[tuple[Tensor, Tensor, Tensor]](int(cache_gib * 2**30))
        self._twice = mirror and split == "train"
        self._options = (1, split, size, coils, self._twice)

    def __len__(self) -> int:
        return len(self._places) * (1 + self._twice)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        mirror, at = _which(index, self)
        number, at = self._places[at]
        k, coils, mask = self._volume(number)
        item = {"kspace": k[at], "sensitivities": coils[at], "frequencies": mask}
        return mirrored(item) if mirror else item

    def _volume(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        found = self._kept.get(number)
        if found is None:
            path = self._files[number].path
            kspace = raw.read_kspace(path)
            k, mask = _cropped(
                path, torch.from_numpy(kspace.values), torch.from_numpy(kspace.mask), self._size
            )
            k = compressed(k, self._coils)
            seen = root_sum_of_squares(inverse_fourier(k))
            k = k / max(float(np.percentile(seen.numpy(), BRIGHT)), 1e-30)
            found = _filled(k, self._coils), _filled(coils_of(k, mask), self._coils), mask
            self._kept.keep(number, found, 2 * found[0].nbytes)
        return found

    def source(self, index: int) -> str:
        """The patient of an item, by pseudonym."""
        number, _ = self._places[_which(index, self)[1]]
        return identity.pseudonym(self._files[number].patient)

    def name(self, index: int) -> str:
        """``patient-7f3a91c2, slice 12``, from 1."""
        mirror, at = _which(index, self)
        name = f"{self.source(index)}, slice {self._places[at][1] + 1}"
        return f"{name}, mirrored" if mirror else name

    def digest(self) -> str:
        """SHA-256 of the files' bytes and of the options of cropping."""
        paths = (path for one in self._files for path in raw.files_beside(one.path))
        return digest_of(paths, self._options)

    def notes(self) -> list[str]:
        """Files, patients, slices and split, and what is left out with the reasons."""
        lines = []
        for split in ("train", "test"):
            here = split_of(self._all, split, self._share, key=lambda one: one.digest)
            patients, slices = len({one.patient for one in here}), sum(one.slices for one in here)
            lines.append(f"{split}: {len(here)} files, {patients} patients, {slices} slices")
        return [*lines, *(f"left out: {line}" for line in self._refused)]


def _which(index: int, items: "KSpaceFolder | UndersampledScans") -> tuple[bool, int]:
    """Whether an item is a mirror image, which lie behind the others, and of which slice."""
    if not 0 <= index < len(items):
        raise IndexError(f"item {index} of {len(items)}")
    own = len(items) // (1 + items._twice)
    return index >= own, index % own


def mirrored(item: dict[str, Tensor]) -> dict[str, Tensor]:
    """The measurement of the image with left and right flipped: at the mirrored frequencies.

    The zero frequency stays at n // 2; of an even number of columns the first one, too.
    """
    flipped = item["frequencies"].flip(-1)
    sampled = flipped.roll(1, -1) if flipped.shape[-1] % 2 == 0 else flipped
    k = fourier(inverse_fourier(item["kspace"]).flip(-1))
    return {
        "kspace": k * sampled,  # rounding, where nothing was sampled
        "sensitivities": item["sensitivities"].flip(-1),
        "frequencies": sampled,
    }


def _surveyed(root: Path, exclude: tuple[str, ...]) -> tuple[list[_File], list[str]]:
    """Files of k-space, and a line for each one that cannot be read."""
    found, refused = [], []
    for path in files_of(root, exclude)[0]:
        beside = path.suffix != ".npy" or path.with_suffix(".json").is_file()
        if path.suffix.lower() not in raw.SUFFIXES or not beside:  # a mask has no JSON
            continue
        try:
            slices = raw.kspace_slices(path)
        except InputError as error:
            refused.append(f"{path}: {error}")
            continue
        hdf5 = path.suffix.lower() in raw.HDF5
        found.append(_File(path, (raw.hdf5_patient(path) if hdf5 else "") or path.stem, slices))
    return found, refused


def _cropped(
    path: Path, k: Complex[Tensor, " d c h w"], mask: Bool[Tensor, " h w"], size: int
) -> tuple[Complex[Tensor, " d c n n"], Bool[Tensor, " n n"]]:
    """The field of view of an oversampled readout, then the middle of k-space."""
    height, width = mask.shape
    if height > OVERSAMPLED * width and bool((mask == mask[:1]).all()):
        k = _rows(k, inverse=True)[..., height // 4 : height // 4 + height // 2, :]
        k, mask = _rows(k, inverse=False), mask[: height // 2]
        k = k * mask  # rounding, where nothing was sampled
    height, width = mask.shape
    if min(height, width) < size:
        raise InputError(
            f"size: expected at most {min(height, width)}, the smaller side of k-space in "
            f"{path.name} ({width}x{height}), got {size}"
        )
    top, left = height // 2 - size // 2, width // 2 - size // 2
    there = (slice(top, top + size), slice(left, left + size))
    return k[..., there[0], there[1]].contiguous(), mask[there].contiguous()


def _rows(k: Complex[Tensor, " d c h w"], *, inverse: bool) -> Complex[Tensor, " d c h w"]:
    """The orthonormal transform along the rows' axis."""
    moved = torch.fft.ifftshift(k, dim=-2)
    moved = (torch.fft.ifft if inverse else torch.fft.fft)(moved, dim=-2, norm="ortho")
    return torch.fft.fftshift(moved, dim=-2)


def _filled(x: Complex[Tensor, " d c h w"], coils: int) -> Complex[Tensor, " d coils h w"]:
    empty = x.new_zeros(len(x), coils - x.shape[1], *x.shape[2:])
    return torch.cat([x, empty], 1)


class UndersampledScans:
    """Slices of your scans as acquired, each measured once: a part of its k-space is ever seen.

    Mask, phase and noise are a function of the slice: the same in every epoch and process.  For
    priors that are to be compared with those of whole images.

    Args:
        root: a folder of DICOM and NIfTI scans.
        size: side of a slice, in pixels.
        pixel: pixel spacing, in millimetres; by default the one that fits each scan's whole slice.
        plane: of the slices.
        percentile: intensity that becomes 1.
        volume: NIfTI: index of the volume of 4-D files, from 0; without it they are left out.
        exclude: names, or paths below the folder, of files and folders to leave out, with ``*`` for
            any letters.
        corrupt: ``refuse`` to start with scans that cannot be read, or ``skip`` them.
        test_share: fraction of the patients held out for testing, approximate, since a hash of the
            patient decides; 0 and 1 for folders of one split alone.
        per_scan: slices of each scan, at most, evenly spaced.
        mask: sampling pattern, another one for each slice.
        acceleration: acceleration factor R.
        centre: fraction of the lines, or of each side, that is fully sampled in the centre.
        noise: standard deviation of the real and imaginary part of k-space noise each, for images
            with maximum 1.
        mirror: augmentation: train on every slice and on its mirror image, left and right flipped,
            which is known at the same frequencies.
        seed: of masks, phases and noise.
        cache_gib: memory for volumes, in GiB, in each process; the least recently used are dropped.

    Raises:
        InputError: an option out of its range, a scan that cannot be used, or none on this side.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 96,
        pixel: float | None = None,
        plane: Plane = "acquired",
        percentile: float = 99.8,
        volume: int | None = None,
        exclude: tuple[str, ...] = (),
        corrupt: Corrupt = "refuse",
        test_share: float = 0.2,
        per_scan: int = 1000,
        mask: SamplingMask = "random",
        acceleration: float = 4.0,
        centre: float = 0.08,
        noise: float = 0.005,
        mirror: bool = True,
        seed: int = 0,
        cache_gib: float = 2.0,
    ) -> None:
        check(mask, acceleration, centre)
        _check(problems_of_split(split), size=size, test_share=test_share, noise=noise)
        if per_scan < 1:
            raise InputError(f"per_scan: expected at least 1, got {per_scan}")
        selection = Selection(modality="MR", volume=volume, exclude=exclude)
        self._survey, self._share = survey(root, selection), test_share
        self._entries = side(root, self._survey.usable(corrupt), split, test_share)
        self._slices = Slices(
            [(identity.pseudonym(entry.patient), entry.scan) for entry in self._entries],
            split="test", size=size, pixel=pixel, planes=[plane], window=lambda scan: None,
            percentile=percentile, count=per_scan, pose=Pose(), seed=0,
            cache=int(cache_gib * 2**30),
        )  # fmt: skip
        self._mask: SamplingMask = mask
        self._sampling = {"acceleration": acceleration, "centre": centre}
        self._noise, self._seed = noise, derive(seed, "undersampled", split)
        self._twice = mirror and split == "train"
        self._options = (
            1, split, size, pixel, plane, percentile, volume, per_scan, mask, acceleration, centre,
            noise, self._twice, seed,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._slices) * (1 + self._twice)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        mirror, at = _which(index, self)
        item = self._measured(at)
        return mirrored(item) if mirror else item

    def _measured(self, index: int) -> dict[str, Tensor]:
        """A slice, measured once."""
        magnitude = (self._slices[index]["image"] + 1) / 2
        height, width = magnitude.shape[1:]
        phase = smooth_phase(generator(derive(self._seed, "phase", index)), height, width)
        k = fourier(turned(magnitude.to(torch.complex64), phase[None]))
        k = k + white_noise(k.shape, std=self._noise, key=(self._seed, "k-space", index))
        sampled = sampling_mask(
            self._mask, height, width, seed=derive(self._seed, "mask", index), **self._sampling
        )
        k = k * sampled
        return {
            "kspace": k,
            "sensitivities": coils_of(k[None], sampled)[0],
            "frequencies": sampled,
        }

    def source(self, index: int) -> str:
        """The patient of an item, by pseudonym."""
        return self._slices.source(_which(index, self)[1])

    def name(self, index: int) -> str:
        """``patient-7f3a91c2, slice 12``, from 1."""
        mirror, at = _which(index, self)
        return f"{self._slices.name(at)}, mirrored" if mirror else self._slices.name(at)

    def digest(self) -> str:
        """SHA-256 of the files' bytes and of the options of slicing and sampling."""
        paths = (path for entry in self._entries for path in entry.files)
        return digest_of(paths, self._options)

    def notes(self) -> list[str]:
        """Scans, patients, slices and split, and what is left out with the reasons."""
        return self._survey.lines(self._share)


def _check(problems: list[str], *, size: int, test_share: float, noise: float = 0.0) -> None:
    """Refuse options out of their range, all at once."""
    if not 8 <= size <= 1024:
        problems.append(f"size: expected 8 to 1024, got {size}")
    if not 0 <= test_share <= 1:
        problems.append(f"test_share: expected 0 to 1, got {test_share:g}")
    if not noise >= 0:
        problems.append(f"noise: expected at least 0, got {noise:g}")
    if problems:
        raise InputError("\n".join(problems))
