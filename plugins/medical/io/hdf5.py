"""HDF5 files of raw data: opened without waiting, and without following links to other files."""

from pathlib import Path
from typing import Any

from core.errors import InputError
from core.storage import files


def opened(path: Path) -> Any:
    """An HDF5 file, opened for reading; a pipe in its place would be waited for."""
    import h5py

    files.open_regular(path).close()
    return h5py.File(path, "r")


def dataset_of(path: Path, file: Any, name: str) -> Any:
    """A dataset stored in the file itself, or None.

    Args:
        path: of the file, for messages.
        file: opened, or a group of it.
        name: of the dataset.

    Raises:
        InputError: a link, no dataset, or one that is stored in other files.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path.name}: {name} is a link; expected a dataset")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path.name}: {name} is not a dataset")
    if found.external or found.is_virtual:
        raise InputError(f"{path.name}: {name} is stored in other files; expected it in this one")
    return found


def group_of(path: Path, file: Any, name: str) -> Any:
    """A group stored in the file itself, or None where the name is of a dataset.

    Raises:
        InputError: a link.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path.name}: {name} is a link; expected a group")
    found = file[name]
    return found if isinstance(found, h5py.Group) else None
