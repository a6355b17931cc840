"""Predictors: a trained model applied to one file after another."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Predictor(Protocol):
    """A model, loaded once, that is called for one file after another.

    A predictor is a class built from a `core.request.Machine` and the path of a checkpoint; its
    options are keyword-only.  Its constructor raises `InputError` for what no file could be done
    with.  The checkpoint is not an option, since in a job it is another step's result.

    Seven more class attributes are optional; they too are known unloaded:

    - ``folders``: suffixes of files of which a folder inside the user's is one input, such as the
      slices of a scan; `source` is then the folder.
    - ``reads(source)``, static: every file that is read for an input, where it is not `source`
      alone.  None of the others is an input of its own.
    - ``reads_by_option``: for options that name a file or a folder of files, one for each input,
      the function from the option's value and the input to its file, or None.  Such a file is
      read with its input, and is no input of its own.
    - ``beside(name)``, static: names of files that may be written beside a result of that name.
    - ``result_names(options)``, static: the function that takes the place of `result_name` under
      options of the predictor.
    - ``show(source, target, facts)``, static: a `core.task.Panel` of an input and its result, for
      reports; None where there is nothing to see.  `facts` are those of the record.
    - ``unread``: suffixes of files that somebody might expect it to read, each with the reason why
      it does not.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files it reads: in lower case, with the dot.  A class attribute, known unloaded."""

    @staticmethod
    def result_name(name: str) -> str:
        """The name of the result of a file of that name; not a path."""
        ...

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any] | None:
        """Make one file of another; the same file gives the same bytes, whatever came before.

        Args:
            source: a file with one of the suffixes; it may hold anything.
            target: a new file to write, whose name ends as `result_name` says.

        Returns:
            Plain facts for the record, or None.

        Raises:
            InputError: `source` cannot be used; it is not tried again while it stays as it is.
        """
        ...


def folders_of(build: Any) -> tuple[str, ...]:
    """Suffixes of files of which a folder is one input of a predictor's class."""
    return getattr(build, "folders", ())


def files_of(build: Any, source: Path, options: Mapping[str, Any] | None = None) -> Sequence[Path]:
    """Every file that a predictor's class reads for an input, under resolved options."""
    reads = getattr(build, "reads", None)
    found = [source] if reads is None else list(reads(source))
    for name, file_for in reads_by_option(build).items():
        value = (options or {}).get(name)
        if value is not None and (file := file_for(value, source)) is not None:
            found.append(file)
    return tuple(dict.fromkeys(found))


def reads_by_option(build: Any) -> Mapping[str, Callable[[Any, Path], Path | None]]:
    """Options of a predictor's class that name a file for each input, and how it is found."""
    return getattr(build, "reads_by_option", {})


def unread_of(build: Any) -> Mapping[str, str]:
    """Suffixes of files that a predictor's class names as not read, with the reasons."""
    return getattr(build, "unread", {})


def shows_of(build: Any) -> Callable[..., Any] | None:
    """The function of a predictor's class that shows an input and its result, if it has one."""
    return getattr(build, "show", None)


def names_of(build: Any, name: str, options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The name of the result of a file of that name, and those of files written beside it.

    Args:
        build: the predictor's class.
        name: of the file.
        options: of the predictor, resolved; by default its defaults.
    """
    named, beside = getattr(build, "result_names", None), getattr(build, "beside", None)
    result = build.result_name(name) if named is None else named(options or {})(name)
    return (result, *(() if beside is None else beside(result)))
