"""A process of several that train together; started by tests, one for each rank.

python train_together.py FOLDER RUNS.json: RANK and the like are set as torchrun sets them.  RUNS
lists, for each run, its folder, its options, the machine's and after how many questions to stop.
With GROUP set the process group exists before training, as in a Ray worker.
"""

import gc
import json
import os
import sys
from pathlib import Path

from small_runs import After, request, trained
from torch import distributed

from core.training.stopping import Stopped


def main() -> None:
    folder, runs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    if "GROUP" in os.environ:
        distributed.init_process_group("gloo")
    for name, options, machine, stop in runs:
        told: object
        try:
            notes = trained(
                request(**options),
                folder / name,
                stop=None if stop is None else After(stop),
                **machine,
            )
            told = notes
        except Stopped as stopped:
            told = f"stopped at {stopped.step}"
        except Exception as error:  # noqa: BLE001  (the test judges it)
            told = f"{type(error).__name__}: {error}"
        print(json.dumps([name, told]), flush=True)
    if "GROUP" in os.environ:
        assert distributed.is_initialized()
        gc.collect()  # as `core.training.distributed` does, and for its reason
        distributed.destroy_process_group()


main()
