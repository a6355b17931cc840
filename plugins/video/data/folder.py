"""Clips of the user's own videos: a folder, split by content, decoded by seeking."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.crops import FAR, check_options
from core.data import Cache, place_of, split_of
from core.errors import InputError
from core.process.noise import derive, generator
from core.storage.files import digest
from core.storage.folders import files_in
from plugins.video.io.reading import VIDEOS, ClipFile, decoded, read_index
from plugins.video.io.resizing import resized

CHUNK = 64  # frames that are decoded and kept together
TICKS = 1000  # of the usual duration of a frame


class Folder:
    """Random clips of the videos in a folder and its subfolders.

    The content of a file decides its split, so that adding files moves no other.  An item holds
    ``clip`` (channels, t, size, size) in [-1, 1] and ``ticks`` (t,), the frames' times in
    thousandths of the distance of two.  Frames are turned upright and reduced until their shorter
    side has `short` pixels; a square of `size` is cut from a random place, in tests from the
    middle.  Only the frames of an item are decoded, from the key frame before them.

    Args:
        root: the folder.
        size: side of the square in pixels.
        short: pixels of the shorter side of the frames; by default `size`, so that most of the
            frame is seen.  0 keeps the size of the files.
        frames: of a clip.
        stride: distance of a clip's frames, in frames of the file.
        colour: colour rather than grey.
        count: clips of the training split.
        per_video: clips of each video of the test split, spread evenly.
        test_fraction: approximate fraction of the videos kept for testing.
        mirrored: training clips are mirrored at random.
        seed: random seed of the training clips.
        cache_gib: memory for decoded frames in GiB, in each process.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 64,
        short: int | None = None,
        frames: int = 16,
        stride: int = 1,
        colour: bool = True,
        count: int = 20000,
        per_video: int = 4,
        test_fraction: float = 0.1,
        mirrored: bool = True,
        seed: int = 0,
        cache_gib: float = 1.0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, 8, 4096),
                "frames": (frames, 1, 4096),
                "stride": (stride, 1, 4096),
                "count": (count, 1, FAR),
                "per_video": (per_video, 1, 4096),
                "test_fraction": (test_fraction, 0.0, 1.0),
                "seed": (seed, 0, FAR),
                "cache_gib": (cache_gib, 0, FAR),
            },
        )
        self._split, self._size, self._frames, self._stride = split, size, frames, stride
        self._short = size if short is None else short
        if 0 < self._short < size:
            raise InputError(f"short: expected 0, or at least the size {size}, got {short}")
        self._colour, self._mirrored = colour, mirrored and split == "train"
        self._seed, self._per_video, self._root = seed, per_video, root
        self._cache = Cache[np.ndarray](int(cache_gib * 2**30))
        self.skipped: list[tuple[Path, str]] = []
        self._clips = self._chosen(split, test_fraction)
        lengths = np.array([len(clip) - self._span + 1 for clip, _ in self._clips], np.float64)
        self._cumulative = lengths.cumsum() / lengths.sum()
        self._count = count if split == "train" else per_video * len(self._clips)

    @property
    def _span(self) -> int:
        """Frames of a file from an item's first to its last."""
        return (self._frames - 1) * self._stride + 1

    def _chosen(self, split: str, fraction: float) -> list[tuple[ClipFile, str]]:
        """Usable videos of a split with their digests."""
        found = files_in(
            self._root, contents="videos", wanted=lambda path: path.suffix.lower() in VIDEOS
        )
        usable: dict[str, ClipFile] = {}
        self.skipped += found.refused
        for path in found.files:
            try:
                clip = read_index(path)
            except InputError as error:
                self.skipped.append((path, str(error)))
                continue
            if len(clip) < self._span:
                self.skipped.append((path, f"{len(clip)} frames, fewer than {self._span}"))
            elif min(self._scaled(clip)) < self._size:
                self.skipped.append((path, f"{clip.width}x{clip.height}, less than {self._size}"))
            else:
                usable.setdefault(digest(path), clip)
        listed = "; ".join(f"{path.name}: {why}" for path, why in self.skipped[:5])
        if not usable:
            raise InputError(
                f"{self._root}: no video of {self._span} frames and {self._size} pixels a side; "
                f"expected {', '.join(VIDEOS)}{listed and f' ({listed})'}"
            )
        items = [(clip, name) for name, clip in usable.items()]
        chosen = split_of(items, split, fraction, key=lambda item: item[1])
        if chosen and (fraction in (0, 1) or len(chosen) < len(items)):
            return chosen
        if fraction in (0, 1) or len(items) == 1:
            raise InputError(
                f"{self._root}: no video is in the {split} split; two videos are required, to "
                "train and to test, or test_fraction 0 to train alone"
            )
        # All are on one side: the nearest to the other one is used for it.
        empty = split if not chosen else {"train": "test", "test": "train"}[split]
        moved = (min if empty == "test" else max)(items, key=lambda item: place_of(item[1]))
        return [moved] if split == empty else [item for item in items if item is not moved]

    def _scaled(self, clip: ClipFile) -> tuple[int, int]:
        """Height and width of a video's frames as they are cut."""
        shorter = min(clip.height, clip.width)
        scale = 1.0 if not self._short else min(1.0, self._short / shorter)
        return round(clip.height * scale), round(clip.width * scale)

    def notes(self) -> list[str]:
        """A line for each video that is left out."""
        return [f"left out: {path}: {why}" for path, why in self.skipped]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Float[Tensor, "c t h w"] | Int64[Tensor, " t"]]:
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        number, start, top, left, mirrored = self._place(index)
        clip, _ = self._clips[number]
        wanted = range(start, start + self._span, self._stride)
        window = (slice(None), slice(top, top + self._size), slice(left, left + self._size))
        frames = np.stack([self._frame(number, i) for i in wanted])[window]
        values = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1
        if mirrored:
            values = values.flip(3)
        if not self._colour:
            values = (values * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0)[None]
        usual = self._stride / clip.rate
        ticks = [round(TICKS * (clip.times[i] - clip.times[start]) / usual) for i in wanted]
        return {"clip": values.contiguous(), "ticks": torch.tensor(ticks)}

    def _place(self, index: int) -> tuple[int, int, int, int, bool]:
        """Of an item: its video, first frame, top, left, and whether it is mirrored."""
        if self._split == "test":
            number, part = divmod(index, self._per_video)
            clip, _ = self._clips[number]
            height, width = self._scaled(clip)
            last = len(clip) - self._span
            start = round(last * (part + 0.5) / self._per_video)
            return number, start, (height - self._size) // 2, (width - self._size) // 2, False
        random = generator(derive("video/folder", self._seed), index)
        number = int(np.searchsorted(self._cumulative, random.random(), side="right"))
        clip, _ = self._clips[number]
        height, width = self._scaled(clip)
        start = int(random.integers(len(clip) - self._span + 1))
        top, left = (int(random.integers(side - self._size + 1)) for side in (height, width))
        return number, start, top, left, bool(self._mirrored and random.random() < 0.5)

    def _frame(self, number: int, frame: int) -> np.ndarray:
        """A frame uint8 (h, w, 3) of a video, from the chunk that it is kept in."""
        clip, _ = self._clips[number]
        first = frame - frame % CHUNK
        key = (number, first)
        chunk = self._cache.get(key)
        if chunk is None:
            there = range(first, min(first + CHUNK, len(clip)))
            size = self._scaled(clip)
            chunk = np.stack([resized(one.pixels, size) for one in decoded(clip, there)])
            self._cache.keep(key, chunk, chunk.nbytes)
        return chunk[frame - first]

    def source(self, index: int) -> str:
        """The video: clips of one are not independent."""
        clip, _ = self._clips[self._place(index)[0]]
        return clip.path.relative_to(self._root).as_posix()

    def name(self, index: int) -> str:
        """Title of the item, such as ``walk.mp4, from frame 30``."""
        return f"{self.source(index)}, from frame {self._place(index)[1]}"

    def digest(self) -> str:
        """SHA-256 of the videos' bytes and the options."""
        options = (
            self._split, self._size, self._short, self._frames, self._stride, self._colour,
            self._mirrored, self._seed, self._per_video, self._count,
        )  # fmt: skip
        names = sorted(name for _, name in self._clips)
        return hashlib.sha256(repr((options, names)).encode()).hexdigest()
