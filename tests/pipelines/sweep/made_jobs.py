"""Jobs that search."""

TRAINING = {
    "task": {"name": "image2image/sr3", "scale": 4},
    "dataset": {"name": "image2image/photos", "size": 32},
    "network": {
        "name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [],
        "middle_attention": False,
    },
    "process": "core/vp_linear", "weighting": "core/v", "steps": 24, "batch": 4, "warmup": 0,
    "ema": 0.5, "validate_every": 8, "validation_items": 8,
}  # fmt: skip


def job(space, *, workers=1, **changes):
    request = {**TRAINING, "space": space, **changes}
    step = {"run": "sweep", "workers": workers, "request": request}
    return {"name": "search", "steps": {"search": step}}
