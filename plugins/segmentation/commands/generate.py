"""``polymode segmentation generate``: images with labels, to train a plain network on."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine, Seed, keeps_nothing
from plugins.segmentation.commands.classify import Classifier
from plugins.segmentation.request import GenerateRequest


@keeps_nothing
def generate(
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a diffusion model of your images, as of train-prior.")
    ],
    classifier: Classifier,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder of images and masks.")],
    count: Annotated[int, typer.Option(min=1, help="Images drawn.")] = 500,
    discard: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Fraction left out, where the ensemble disagrees most."),
    ] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps of each image.")] = 50,
    seed: Seed = 0,
    *,
    machine: OnMachine,
) -> None:
    """Draw images from a prior and label them by a classifier (DatasetDDPM).

    A plain network is trained on them: `polymode train plugins/segmentation/configs/masks.yaml
    --set dataset.root=OUT`, and serves predict, evaluate and apply as a classifier.

    Example: polymode segmentation generate --checkpoint runs/prior --classifier runs/c -o made
    """
    from core.progress import listener
    from plugins.segmentation.inference import generate as generating

    request = GenerateRequest(
        checkpoint=checkpoint, classifier=classifier, count=count, discard=discard, steps=steps,
        seed=seed,
    )  # fmt: skip
    with listener("generate") as emit:
        result = generating.generate(request, out, machine=machine, emit=emit)
    print(result.images)
