"""Faults in the plug-in of segmentation."""

from faults.fault import segmentation

FAULTS = (
    segmentation("scenes: digits of both splits", "data/scenes",
                 "side if split == \"train\" else ~side", "side | True",
                 "data/test_scenes", "splits"),
    segmentation("scenes: digits over each other", "data/scenes",
                 "if not any(_overlap(one, other) for other in found):", "if True:",
                 "data/test_scenes", "apart"),
    segmentation("folder: labels that are not turned", "data/folder",
                 "window(self._masks[crop.photo], crop,",
                 "window(self._masks[crop.photo], crop._replace(turns=0),",
                 "data/test_folder", "turn"),
    segmentation("annotations: edges at pixels' corners", "io/annotations/areas",
                 "np.ceil((v + 0.5) / FINER - 0.5)", "np.ceil((v + 0.5) / FINER)",
                 "io/test_areas", "pycocotools"),
    segmentation("annotations: runs by rows", "io/annotations/coco",
                 ".reshape(size[::-1]).T", ".reshape(size)", "io/test_annotations", "runs"),
    segmentation("annotations: the order of the file instead of CVAT's heights",
                 "io/annotations/cvat", "key=lambda one: int(one.attrib.get(\"z_order\", 0))",
                 "key=lambda one: 0", "io/test_annotations", "heights"),
    segmentation("annotations: classes by name alone", "io/annotations/drawing",
                 "(shape.rank, shape.name) for one", "(0, shape.name) for one",
                 "io/test_annotations", "heights"),
    segmentation("instances: half an overlap is a match", "evaluation/instances",
                 "(iou > threshold)", "(iou >= threshold)", "evaluation/test_instances"),
    segmentation("scores: the baseline's own class of each image", "evaluation/scores",
                 "int(counts.sum((0, 2)).argmax())", "int(counts[0].sum(1).argmin())",
                 "evaluation/test_scores", "baseline"),
)  # fmt: skip
