"""A predictor that takes no time: text in capitals.  Found by workers as the other toys are."""

import errno
import os
import signal
import time
from pathlib import Path, PurePath

from core.errors import InputError
from core.parts.registry import Plugin, Registry, predictor
from core.storage import memory


class Shout:
    """A text in capitals, between the checkpoint's word and a mark.

    Args:
        mark: what comes after it.
        seconds: that a file takes.
        log: where the process and the file's name are added when it is begun; empty for nowhere.
    """

    suffixes = (".txt", ".md")

    def __init__(
        self, machine, checkpoint: Path, *, mark: str = "!", seconds: float = 0.0, log: str = ""
    ) -> None:
        self.word = checkpoint.read_text()
        if self.word == "of another task":
            raise InputError("checkpoint: of another task")
        if self.word == "is broken":
            raise ValueError("a broken word")
        if self.word == "lacks":
            raise ModuleNotFoundError("No module named 'lack'")
        if self.word == "dies":
            os._exit(3)
        self.mark, self.seconds, self.log = mark, seconds, log

    @staticmethod
    def result_name(name: str) -> str:
        return f"{PurePath(name).stem}.loud"

    def __call__(self, source: Path, target: Path):
        text = source.read_text()
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {source.name}\n")
        target.write_text("half of")  # what is written in between is no result
        time.sleep(self.seconds)
        match text:
            case "" | "bad":
                raise InputError(f"{source}: holds {len(text)} letters\nand more")
            case "raise":
                raise RuntimeError(f"it broke at {source}\nin two lines")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "memory":
                raise memory.NotEnough(f"{source}: needs more")
            case "cannot":
                raise InputError(f"{source}: cannot be read") from OSError(errno.EIO, "I/O error")
            case "nothing":
                target.unlink()
        target.write_text(f"{self.word} {text.upper()}{self.mark}") if text != "nothing" else None
        return {"letters": len(text)}


def toys(version: str = "1") -> Registry:
    """A registry of it alone."""
    return Registry([plugin(version)])


def plugin(version: str = "1") -> Plugin:
    part = predictor("shout", "toy_predictor:Shout", "Capitals", version=version)
    return Plugin("toy", "Toys", (part,))


PLUGIN = plugin()
