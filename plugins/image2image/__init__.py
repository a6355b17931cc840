"""Image to image: tensors (b, c, h, w) in [-1, 1]."""

from core.parts.registry import Plugin, Verb, dataset, operator, predictor, task

IMAGES = "polymode image2image "

PLUGIN = Plugin(
    name="image2image",
    summary="Super-resolution, restoration, editing and purification of images (SR3, Palette).",
    extra="polymode[image2image]",
    commands="plugins.image2image.__main__:app",
    parts=(
        dataset(
            "photos",
            "plugins.image2image.data.photos:Photos",
            "Photographs in scikit-image; no download",
            needs=("skimage",),
        ),
        dataset(
            "digits",
            "plugins.image2image.data.digits:Digits",
            "Handwritten digits in scikit-learn; no download",
            needs=("sklearn",),
        ),
        dataset(
            "cifar10",
            "plugins.image2image.data.cifar:CIFAR10",
            "CIFAR-10 from its binary files",
        ),
        dataset(
            "folder",
            "plugins.image2image.data.folder:Folder",
            "Your own images, recursively",
        ),
        operator(
            "bicubic",
            "plugins.image2image.operators.bicubic:Bicubic",
            "Antialiased bicubic by a whole factor",
        ),
        predictor(
            "purify",
            "plugins.image2image.inference.purify_files:Purify",
            "Adversarial purification (DiffPure)",
        ),
        predictor(
            "restore",
            "plugins.image2image.inference.predictors:Restore",
            "Colourisation, inpainting, JPEG restoration (Palette)",
        ),
        predictor(
            "upscale",
            "plugins.image2image.inference.predictors:Upscale",
            "Super-resolution (SR3)",
        ),
        task(
            "colourise",
            "plugins.image2image.tasks.colourise:Colourise",
            "Colourisation, luma kept exactly",
            needs=("kornia",),
            version="2",
            command=IMAGES + "colourise grey.png --checkpoint {checkpoint} -o colour.png",
        ),
        task(
            "inpaint",
            "plugins.image2image.tasks.inpaint:Inpaint",
            "Inpainting, known pixels kept exactly",
            needs=("skimage", "scipy", "kornia"),
            version="2",
            command=IMAGES
            + "inpaint photo.png --mask mask.png --checkpoint {checkpoint} -o filled.png",
        ),
        task(
            "jpeg",
            "plugins.image2image.tasks.jpeg:JPEG",
            "JPEG restoration",
            needs=("jpeglib", "kornia"),
            command=IMAGES + "restore-jpeg old.jpg --checkpoint {checkpoint} -o new.png",
        ),
        task(
            "multiscale",
            "plugins.image2image.tasks.multiscale:MultiScale",
            "Super-resolution by any factor, one network, to train",
            needs=("kornia",),
            command=IMAGES + "upscale photo.png --scale 2.7 --checkpoint {checkpoint} -o large.png",
        ),
        task(
            "multitask",
            "plugins.image2image.tasks.multitask:MultiTask",
            "Palette's four tasks by one network, to train",
            needs=("skimage", "scipy", "jpeglib", "kornia"),
            version="2",
            command=IMAGES + "restore photo.jpg --task jpeg --checkpoint {checkpoint} -o new.png",
        ),
        task(
            "sr3",
            "plugins.image2image.tasks.super_resolution:SR3",
            "Super-resolution by refinement (SR3)",
            needs=("kornia",),
            command=IMAGES + "upscale photo.png --checkpoint {checkpoint} -o large.png",
        ),
        task(
            "uncrop",
            "plugins.image2image.tasks.inpaint:Uncrop",
            "Uncropping: images extended beyond their edges",
            needs=("skimage", "scipy", "kornia"),
            version="2",
            command=IMAGES
            + "uncrop photo.png --extend right=50% --checkpoint {checkpoint} -o wide.png",
        ),
    ),
    verbs=(
        Verb(
            name="cascade",
            request="plugins.image2image.request:CascadeRequest",
            result="core.request:SampleResult",
            target="plugins.image2image.inference.cascade:sample",
            summary="Super-resolution by a cascade of two models",
        ),
        Verb(
            name="choose",
            request="plugins.image2image.request:ChooseRequest",
            result="plugins.image2image.request:ChooseResult",
            target="plugins.image2image.evaluation.choose:choose",
            summary="A model's default of steps, draws and detail",
        ),
        Verb(
            name="classifier",
            request="plugins.image2image.request:ClassifierRequest",
            result="plugins.image2image.request:ClassifierResult",
            target="plugins.image2image.evaluation.classifier:train",
            summary="Training of a small image classifier",
        ),
        Verb(
            name="compare",
            request="plugins.image2image.request:CompareRequest",
            result="plugins.image2image.request:CompareResult",
            target="plugins.image2image.evaluation.compare:compare",
            summary="FID, KID, precision, recall, diversity of samples",
            folders=True,
        ),
        Verb(
            name="robustness",
            request="plugins.image2image.request:RobustnessRequest",
            result="plugins.image2image.request:RobustnessResult",
            target="plugins.image2image.evaluation.robustness:evaluate",
            summary="Accuracy under attack, with and without purification",
        ),
    ),
)
