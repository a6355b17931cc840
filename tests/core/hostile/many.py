"""Run the reader's process over many files: torch is imported once, every file has a fork.

    python many.py CHILD FOLDER

prints a line of JSON for each file of the folder: what was said, exit, seconds and memory.
"""

import importlib.util
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from core.storage.limited_process import begin
from core.weights.read import limits_of


def main():
    spec = importlib.util.spec_from_file_location("child", sys.argv[1])
    child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    folder = Path(sys.argv[2])
    for source in sorted(folder.glob("*.*")):
        said, begun = folder / f"said-{source.name}", time.monotonic()
        process = os.fork()
        if process == 0:
            limited = partial(begin, limits_of(source.stat().st_size))
            made = str(folder / f"made-{source.name}")
            said.write_text(json.dumps(child.work(limited, str(source), made, "")))
            os._exit(0)
        _, status, used = os.wait4(process, 0)
        line = {
            "name": source.name,
            "said": said.read_text(),
            "status": status,
            "seconds": time.monotonic() - begun,
            "kilobytes": used.ru_maxrss,
        }
        print(json.dumps(line), flush=True)


main()
