"""Annotation files of any known kind, told by their content."""

from pathlib import Path

from core.errors import InputError
from core.images.pictures import reason
from core.storage import json_file, xml_file
from core.storage.folders import files_in
from plugins.segmentation.io.annotations import coco, cvat, labelme
from plugins.segmentation.io.annotations.drawing import Drawing
from plugins.segmentation.io.classes import NAMES

SUFFIXES = (".json", ".xml")
LARGEST = 2**28  # bytes of a file; LabelMe's hold their images
KINDS = "COCO JSON, LabelMe JSON, or CVAT for images 1.1 as XML"


def annotation_files(path: Path) -> list[Path]:
    """The annotation files at a path: itself, or those in a folder and its subfolders.

    Raises:
        InputError: no such file or folder.
    """
    if path.is_dir():
        found = files_in(path, contents="masks", wanted=lambda p: p.suffix.lower() in SUFFIXES)
        return [file for file in found.files if file != path / NAMES]
    if not path.exists():
        raise InputError(
            f"{path}: does not exist; expected --masks to be a folder of masks, or annotations as "
            f"{KINDS}"
        )
    return [path]


def read_drawings(file: Path) -> list[Drawing]:
    """The annotations in a file; images without a shape are left out.

    Raises:
        InputError: it cannot be read, is none, or is empty.
    """
    try:
        found = _read(file)
    except (OSError, json_file.NotJson, xml_file.NotXml) as error:
        raise InputError(f"{file}: cannot be read as {KINDS}: {reason(error)}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else reason(error)
        raise InputError(f"{file}: not annotations that can be read: {what}") from error
    return [one for one in found if one.shapes]


def _read(file: Path) -> list[Drawing]:
    if file.suffix.lower() == ".xml":
        return cvat.drawings_of(xml_file.read(file, largest=LARGEST), file)
    document = json_file.read(file, largest=LARGEST)
    if isinstance(document, dict) and "shapes" in document:
        return [labelme.drawing_of(document, file)]
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys():
        return coco.drawings_of(document, file)
    raise ValueError(f"expected {KINDS}")
