"""``polymode video info``: the frames of a file, exactly counted."""

from pathlib import Path
from typing import Annotated

import typer


def info(
    files: Annotated[list[Path], typer.Argument(help="Video files or folders of images.")],
) -> None:
    """Print codec, size, rotation, exact number of frames, rate, duration and key frames.

    Example: polymode video info *.mp4
    """
    from plugins.video.io.reading import read_index

    for number, path in enumerate(files):
        clip = read_index(path)
        if number:
            print()
        kind = "variable, usually" if clip.variable else "constant"
        rows = {
            "file": path,
            "codec": f"{clip.codec}, {clip.pixel_format}",
            "size": f"{clip.width} x {clip.height}",
            "rotation": f"{90 * clip.turns} degrees",
            "pixel aspect": clip.aspect,
            "frames": len(clip),
            "rate": f"{clip.rate} a second ({kind})",
            "duration": f"{float(clip.duration):.3f} s",
            "key frames": len(clip.keys),
            "audio": clip.audio or "none",
        }
        if clip.missing:
            rows["missing"] = f"{len(clip.missing)} numbers, the first {clip.missing[0]}"
        for name, value in rows.items():
            print(f"{name:13} {value}")
