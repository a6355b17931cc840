"""Peak memory of generating clips of two lengths, each in a process of its own.

python tests/benchmarks/bench_clip_memory.py CHECKPOINT [--frames 64 1024] [--steps 4]

`polymode video generate` writes PNG files; frames that are finished lie on disk, so that memory
does not grow with the clip.  Prints MiB at the peak (`getrusage`), and the ratio.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path


def peak(checkpoint: Path, frames: int, steps: int) -> float:
    """MiB at the peak of generating a clip; to be called in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "core", "video", "generate", "--checkpoint", str(checkpoint),
            "--frames", str(frames), "--steps", str(steps), "--threads", "1",
            "-o", str(Path(folder, "clip")),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        written = len(list(Path(folder, "clip").glob("*.png")))
    assert written == frames, f"expected {frames} frames, got {written}"
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, nargs=2, default=[64, 1024])
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args(arguments)
    found = []
    for frames in options.frames:
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(peak, (options.checkpoint, frames, options.steps)))
        print(f"{frames} frames: {found[-1]:.0f} MiB", flush=True)
    print(f"ratio: {found[1] / found[0]:.3f}")


if __name__ == "__main__":
    main()
