"""``polymode segmentation choose``: which blocks and noise levels of a prior to read."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine, Overwrite, Seed, check_new, keeps_nothing
from plugins.segmentation.commands.classify import Images
from plugins.segmentation.request import ChooseRequest, Labels, Tiling


@keeps_nothing
def choose(
    images: Images,
    checkpoint: Annotated[Path, typer.Option(help="Folder of a diffusion model of your images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of metrics.json.")],
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            help="A block of the U-Net, such as up.3; repeatable.", show_default="the decoder's"
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=999,
            help="A noise level, as a step of DDPM's 1000; repeatable.",
            show_default="1, 20, 50, 100, 150, 250",
        ),
    ] = None,
    pixels: Annotated[
        int, typer.Option(min=100, help="Labelled pixels that are used at most.")
    ] = 10_000,
    folds: Annotated[
        int, typer.Option(min=2, help="Parts of the images, each segmented by the others.")
    ] = 5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    *,
    labels: Labels,
    tiling: Tiling,
    machine: OnMachine,
) -> None:
    """Compare blocks and noise levels of a prior by the mean IoU of a linear classifier.

    Each labelled image is segmented by a classifier of the others.  The table has each block and
    all of them, at each step and at all of them; the last line states the best to `fit`.

    Example: polymode segmentation choose images --checkpoint runs/prior -o runs/choice
    """
    check_new([out / "metrics.json"], overwrite=overwrite)
    from core.progress import listener
    from core.storage import json_file
    from plugins.segmentation.evaluation.choose import choose as choosing

    request = ChooseRequest(
        images=images, checkpoint=checkpoint, labels=labels, blocks=tuple(blocks or ()),
        steps=tuple(steps or ChooseRequest.steps), pixels=pixels, folds=folds, tiling=tiling,
        seed=seed,
    )  # fmt: skip
    with listener("choose") as emit:
        result = choosing(request, out, machine=machine, emit=emit)
    methods = json_file.read(result.metrics)["methods"]
    names = [name.split(" at ") for name in methods]
    across = list(dict.fromkeys(step for _, step in names))
    width = max(len(block) for block, _ in names)
    typer.echo(" " * width + "".join(f"  {step:>6}" for step in across))
    for row in dict.fromkeys(block for block, _ in names):
        cells = (methods[f"{row} at {step}"]["miou"]["mean"] for step in across)
        typer.echo(f"{row:{width}}" + "".join(f"  {cell:6.4f}" for cell in cells))
    listed = ", ".join(result.blocks), ", ".join(map(str, result.steps))
    print(f"{{name: segmentation/diffusion, blocks: [{listed[0]}], steps: [{listed[1]}]}}")
