"""A session of labelling: images, masks on disk, and what is kept for the live prediction."""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.data import Cache
from core.errors import InputError
from core.features import Features
from core.images.labels import read_labels
from core.results.sheet import to_bytes
from core.storage import memory
from core.storage.files import make_folder
from plugins.segmentation.data.labelled import masks_of, rgb, stated_classes
from plugins.segmentation.inference.suggest import Suggestion, ranked
from plugins.segmentation.io.classes import IGNORE, Classes, classes_of, write_classes
from plugins.segmentation.io.masks import write_mask
from plugins.segmentation.label import live
from plugins.segmentation.request import Labels, Tiling

SIDE, PIXELS = 16_384, 2**26  # of an image that is shown: more than that no browser draws
KEPT = 2**30  # bytes of features, or a quarter of the free memory
MASKS = 2**27  # bytes of masks
DEFAULT = ("background", "object")


class Item(NamedTuple):
    """An image to label.

    Args:
        name: in its folder, without the suffix.
        image: its file.
        mask: the file of its mask, there or not.
    """

    name: str
    image: Path
    mask: Path


def items_of(images: Path, masks: Path | None) -> list[Item]:
    """The images of a folder with their masks, sorted by name.

    A mask that is there is continued; a new one is ``NAME_mask.png`` beside its image, or in the
    folder of masks, which is made.

    Raises:
        InputError: no image, or as `masks_of`.
    """
    if masks is not None:
        make_folder(masks)
    found, there = masks_of(images, masks)
    if not found:
        raise InputError(
            f"{images}: no image to label; give a folder of PNG, JPEG or TIFF files; label scans "
            "in a viewer of theirs, such as 3D Slicer, and save NIfTI masks beside them"
        )
    items = []
    for name, path in found.items():
        new = path.with_name(f"{path.stem}_mask.png")
        if masks is not None:
            new = masks / f"{name}_mask.png"
        items.append(Item(name, path, there.get(name, new)))
    return items


def classes_for(items: Sequence[Item], labels: Labels, images: Path) -> Classes:
    """The classes to paint: those named, else those stored with the masks, else their numbers.

    Args:
        items: the images.
        labels: how masks are read.
        images: the folder of the images.

    Raises:
        InputError: a mask that cannot be read, or a number that a palette does not hold.
    """
    ignore = (*labels.ignore, IGNORE)
    stated = stated_classes(images, labels.masks, labels.classes)
    if isinstance(stated, Classes):
        classes = stated
    elif stated:
        classes = classes_of([], stated, ignore=ignore)
    else:
        masks = [read_labels(item.mask) for item in items if item.mask.exists()]
        classes = classes_of(masks, (), ignore=ignore)
        if set(classes.values) <= set(range(len(DEFAULT))):
            classes = classes_of([], DEFAULT, ignore=ignore)
    if len(classes) < 2:
        raise InputError(
            "classes: expected two or more, found one; name them, as --classes background "
            "--classes cell"
        )
    if max(classes.values) >= IGNORE:
        raise InputError(
            f"masks: a class has the number {max(classes.values)}, the page writes palettes of 0 "
            "to 254; number the classes anew"
        )
    return classes


@dataclass
class _State:
    """Progress, trouble and score of an image so far.

    Args:
        done: tiles whose features are read.
        total: tiles.
        trouble: why it has no features.
        score: of `suggest`.
    """

    done: int = 0
    total: int = 0
    trouble: str = ""
    score: float | None = None


class Waiting(NamedTuple):
    """Why there is no prediction yet.

    Args:
        why: ``features``, ``classes`` (labels of fewer than two) or ``trouble``.
        done: tiles read.
        total: tiles.
        text: of the trouble.
    """

    why: str
    done: int = 0
    total: int = 0
    text: str = ""


class Session:
    """Images that are being labelled; its methods are called from several threads at once.

    A thread of its own reads features: of the image shown first, then of the others that have
    labels, then it scores images for `suggest`.  Masks are on disk before `paint` returns.

    Args:
        items: the images.
        classes: to paint.
        features: that predictions read.
        folder: of the masks, where the classes are stored with the first of them.
        tiling: how large images are read.
        ignore: numbers of pixels without a label in masks that are there.
        score: the uncertainty of an image by a classifier; None without one.
    """

    def __init__(
        self,
        items: Sequence[Item],
        classes: Classes,
        features: Features,
        folder: Path,
        *,
        tiling: Tiling | None = None,
        ignore: Sequence[int] = (IGNORE,),
        score: Callable[[Path], float] | None = None,
    ) -> None:
        self.items, self.classes = list(items), classes
        self._features, self._tiling = features, tiling or Tiling()
        self._folder, self._stored = folder, False
        self._ignore, self._score = (*ignore, IGNORE), score
        self._state = [_State() for _ in self.items]
        self._masks: Cache[np.ndarray] = Cache(MASKS)
        self._kept: Cache[live.Kept] = Cache(min(KEPT, memory.free() // 4))
        self._samples: dict[int, live.Sample] = {}
        self._fresh: set[int] = set()  # images whose sample is of their mask as it is
        self._shown, self._ended = 0, False
        self._changed = threading.Condition(threading.RLock())
        self._painting, self._sampling = threading.Lock(), threading.Lock()
        self._worker = threading.Thread(target=self._work, daemon=True)

    # --- what the page asks ----------------------------------------------------------------------

    def picture(self, number: int) -> bytes:
        """The image as a PNG of 8 bits.

        Raises:
            InputError: it cannot be read, or is too large to be shown.
        """
        pixels = rgb(self.items[number].image)
        height, width = pixels.shape[1:]
        if max(height, width) > SIDE or height * width > PIXELS:
            raise InputError(
                f"{self.items[number].name}: {width} x {height} pixels; the page shows up to "
                f"{PIXELS // 10**6} million, {SIDE} a side; cut the image into parts"
            )
        with self._changed:
            self._shown = number
            self._changed.notify_all()
        file = io.BytesIO()
        Image.fromarray(to_bytes(pixels)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def mask(self, number: int) -> np.ndarray:
        """Class indices of the image (h, w), `IGNORE` where there is none; not to be changed.

        Raises:
            InputError: image or mask cannot be read, or do not fit.
        """
        with self._changed:
            found = self._masks.get(number)
        if found is not None:
            return found
        item = self.items[number]
        size = tuple(rgb(item.image).shape[1:])
        if item.mask.exists():
            numbers = read_labels(item.mask)
            if numbers.shape != size:
                raise InputError(
                    f"{item.mask}: {numbers.shape[1]} x {numbers.shape[0]} pixels, its image has "
                    f"{size[1]} x {size[0]}; export the mask at the image's size"
                )
            found = self.classes.indices(numbers, str(item.mask), ignore=self._ignore)
        else:
            found = np.full(size, IGNORE, np.uint8)
        with self._changed:
            return self._masks.keep(number, found, found.nbytes)

    def paint(self, number: int, left: int, top: int, labels: np.ndarray) -> None:
        """Replace the labels of a rectangle, and write the mask.

        Args:
            number: of the image.
            left: first column.
            top: first row.
            labels: class indices (h, w), `IGNORE` for none.

        Raises:
            InputError: outside the image, an unknown class, or the mask cannot be written.
        """
        mask, (height, width) = self.mask(number), labels.shape
        if not (0 <= top <= mask.shape[0] - height and 0 <= left <= mask.shape[1] - width):
            raise InputError("labels: a rectangle that is not inside the image")
        if bool(((labels >= len(self.classes)) & (labels != IGNORE)).any()):
            raise InputError(f"labels: expected classes below {len(self.classes)} or {IGNORE}")
        item = self.items[number]
        if item.mask.suffix.lower() != ".png":
            raise InputError(
                f"{item.mask}: the page writes PNG alone; convert the mask, or write new ones into "
                "another folder with --masks"
            )
        with self._painting:
            mask = self.mask(number).copy()
            mask[top : top + height, left : left + width] = labels
            make_folder(item.mask.parent)
            if not self._stored:
                write_classes(self._folder, self.classes)
                self._stored = True
            write_mask(item.mask, mask, self.classes)
            with self._changed:
                self._masks.keep(number, mask, mask.nbytes)
                self._fresh.discard(number)

    def labelled(self) -> list[bool]:
        """Whether each image has a mask."""
        return [item.mask.exists() for item in self.items]

    def predict(self, number: int) -> live.Prediction | Waiting:
        """The prediction of an image from all labels so far, or why there is none.

        Raises:
            InputError: as `mask`.
        """
        with self._changed:
            self._shown = number
            found, state = self._kept.get(number), self._state[number]
            self._changed.notify_all()
        if state.trouble:
            return Waiting("trouble", text=state.trouble)
        if found is None:
            return Waiting("features", state.done, state.total)
        self._sample(number, found)
        with self._changed:
            samples = dict(self._samples)
        how = live.fitted(samples)
        return Waiting("classes") if how is None else live.predicted(found, how)

    def suggested(self) -> tuple[list[int], int] | None:
        """Images without a mask, the most uncertain first, and how many have been scored."""
        if self._score is None:
            return None
        scores = [(n, s.score) for n, s in enumerate(self._state) if s.score is not None]
        there, numbers = self.labelled(), {self.items[n].name: n for n, _ in scores}
        found = ranked([Suggestion(self.items[n].name, score) for n, score in scores])
        order = [numbers[one.name] for one in found if not there[numbers[one.name]]]
        return order, len(scores)

    # --- features in the background --------------------------------------------------------------

    def start(self) -> None:
        """Begin to read features."""
        self._worker.start()

    def end(self) -> None:
        """Read no more of them."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _sample(self, number: int, found: live.Kept) -> None:
        """Have the features of the labelled pixels of an image as it is now."""
        with self._sampling:  # one after another: the last one is of the newest mask
            with self._changed:
                if number in self._fresh:
                    return
                self._fresh.add(number)
            sample = live.sample(found, self.mask(number))
            with self._changed:
                self._samples[number] = sample

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                while job is None and not self._ended:
                    self._changed.wait()
                    job = self._next()
                if job is None or self._ended:
                    return
            number, read = job
            try:
                self._read(number) if read else self._rank(number)
            except Exception as error:  # noqa: BLE001  (one bad image must not end the page)
                self._state[number].trouble = str(error) or type(error).__name__

    def _next(self) -> tuple[int, bool] | None:
        """The next image, and whether its features are read or it is scored."""
        good = [n for n, state in enumerate(self._state) if not state.trouble]
        if self._shown in good and self._kept.get(self._shown) is None:
            return self._shown, True
        for n in good:
            if n not in self._samples and self.items[n].mask.exists():
                return n, True
        for n in good:
            if self._score is not None and self._state[n].score is None:
                return n, False
        return None

    def _read(self, number: int) -> None:
        state = self._state[number]

        def progress(done: int, total: int) -> None:
            state.done, state.total = done, total

        found = live.kept(self._features, rgb(self.items[number].image), self._tiling, progress)
        self._sample(number, found)
        with self._changed:
            self._kept.get(self._shown)  # used now: of all that are kept it is dropped last
            self._kept.keep(number, found, found.bytes)

    def _rank(self, number: int) -> None:
        assert self._score is not None, "asked only with one"
        score = self._score(self.items[number].image)
        self._state[number].score = score
