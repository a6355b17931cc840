"""Segmentation of images from a handful of labelled ones, by features of a diffusion model."""

from core.parts.registry import Plugin, Verb, dataset, features, objective, predictor, task

PLUGIN = Plugin(
    name="segmentation",
    summary="Pixel classifiers from a few labelled images, by features of a diffusion model.",
    extra="polymode[segmentation]",
    commands="plugins.segmentation.__main__:app",
    parts=(
        dataset(
            "digits_scene",
            "plugins.segmentation.data.scenes:DigitsScene",
            "Handwritten digits with pixel labels; no download",
            needs=("sklearn",),
        ),
        dataset(
            "folder",
            "plugins.segmentation.data.folder:LabelledFolder",
            "Crops of your own labelled images",
        ),
        features(
            "diffusion",
            "plugins.segmentation.features.diffusion:Diffusion",
            "Decoder features of a diffusion model of images",
        ),
        features(
            "filters",
            "plugins.segmentation.features.filters:Filters",
            "Gaussians, gradients, Hessians at several scales",
        ),
        features(
            "vit",
            "plugins.segmentation.features.vit:Vit",
            "Tokens of your own DINO or DINOv2, from a file",
        ),
        objective(
            "brier",
            "plugins.segmentation.tasks.brier:Brier",
            "Squared error of classes, from noise alone",
        ),
        predictor(
            "segment",
            "plugins.segmentation.inference.predictor:Segment",
            "Masks of images by a fitted classifier",
            needs=("skimage",),
        ),
        task(
            "masks",
            "plugins.segmentation.tasks.masks:Masks",
            "A plain network of pixels' classes",
        ),
    ),
    verbs=(
        Verb(
            name="choose",
            request="plugins.segmentation.request:ChooseRequest",
            result="plugins.segmentation.request:ChooseResult",
            target="plugins.segmentation.evaluation.choose:choose",
            summary="Mean IoU over blocks and noise levels of a prior",
        ),
        Verb(
            name="generate",
            request="plugins.segmentation.request:GenerateRequest",
            result="plugins.segmentation.request:GenerateResult",
            target="plugins.segmentation.inference.generate:generate",
            summary="Images with labels, by a prior and a classifier",
        ),
        Verb(
            name="fit",
            request="plugins.segmentation.request:FitRequest",
            result="plugins.segmentation.request:FitResult",
            target="plugins.segmentation.inference.fit:fit",
            summary="A pixel classifier from images with labels",
        ),
    ),
)
