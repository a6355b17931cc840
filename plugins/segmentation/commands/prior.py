"""``polymode segmentation train-prior``: a diffusion model of the user's own images."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine

CONFIG = Path(__file__).parents[1] / "configs" / "prior.yaml"


def train_prior(
    folder: Annotated[Path, typer.Argument(help="Folder of your images, searched recursively.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser steps.", show_default="2400, 20 minutes of one core"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, help="Side of the crops in pixels.", show_default="64"),
    ] = None,
    *,
    machine: OnMachine,
) -> None:
    """Train a diffusion model of your images, without labels; the same command resumes it.

    Masks that lie beside their images, such as photo_mask.png, are left out.

    More options: `polymode train plugins/segmentation/configs/prior.yaml --set ...`.

    Example: polymode segmentation train-prior images -o runs/prior
    """
    from core import runs
    from core.parts.config import bind
    from core.parts.yaml_file import read_yaml
    from core.progress import listener
    from core.request import TrainRequest
    from plugins.segmentation.data.labelled import ENDINGS

    request = dict(read_yaml(CONFIG))
    patterns = [f"*{ending}.*" for ending in ENDINGS]
    request["dataset"] = {**request["dataset"], "root": str(folder), "exclude": patterns}
    request["dataset"] |= {"size": size} if size is not None else {}
    request |= {"steps": steps} if steps is not None else {}
    with listener("train-prior") as emit:
        result = runs.train(bind(TrainRequest, request), out, machine=machine, emit=emit)
    print(result.checkpoint)
