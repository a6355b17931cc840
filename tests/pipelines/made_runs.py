"""Folders of steps as the store keeps them, and strings that attack a page."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from core.results.panels import write_panels
from core.storage import files
from core.task import Clip, Cloud, Panel, Volume
from pipelines.store import results

XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "{% raw %}<b>",
    "<!-- <b> -->",
    "&lt;script&gt;",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "`${alert(1)}`",
    "]]><script>alert(1)</script>",
    "<a href='https://evil.example'>x</a>",
]


def finished(root: Path, name: str, run: str, request: dict, inputs: dict | None = None) -> Path:
    """A step's folder as the store keeps it."""
    key = f"{abs(hash(name)):016x}".ljust(64, "0")[:64]
    folder = root / f"{name}-{key[:16]}"
    identity = {"format": 1, "run": run, "request": request, "parts": {}, "files": {}}
    entries = {field: {"key": key, "field": ""} for field, key in (inputs or {}).items()}
    results.begin(folder, key, {**identity, "inputs": entries}, name)
    environment = {"python": "3.11.7", "torch": "2.13.0", "seconds": 61.5, "threads": 2}
    files.write_json(folder / "env.json", {**environment, "device": "cpu", "gpus": 0})
    files.write_json(folder / "result.json", {"made": "x", "seconds": 1.0})
    return folder


def cell(mean, low, high):
    return {"mean": mean, "low": low, "high": high, "n": 24}


def metrics(**changes):
    said = {
        "format": 1, "task": "image2image/sr3", "split": "test", "n": 24,
        "sources": ["cat", "coffee", "rocket"], "draws": 8, "confidence": 0.95,
        "metrics": {
            "psnr": {"label": "PSNR", "unit": "dB", "better": "higher"},
            "ssim": {"label": "SSIM", "unit": "", "better": "higher"},
            "consistency": {"label": "Consistency", "unit": "", "better": "lower"},
        },
        "reference": "bicubic",
        "methods": {
            "bicubic": {"psnr": cell(27.31, 26.2, 28.4), "ssim": cell(0.81, 0.78, 0.84),
                        "consistency": cell(0.012, 0.010, 0.014)},
            "one sample": {"psnr": cell(26.6, 25.4, 27.7), "ssim": cell(0.805, 0.77, 0.83),
                           "consistency": cell(0.004, 0.003, 0.005)},
            "mean of 8": {"psnr": cell(28.14, 27.0, 29.2), "ssim": cell(0.84, 0.81, 0.87),
                          "consistency": cell(0.003, 0.002, 0.004)},
        },
        "differences": {
            "one sample": {"psnr": cell(-0.71, -0.9, -0.5), "ssim": cell(-0.005, -0.02, 0.01),
                           "consistency": cell(-0.008, -0.0095, -0.0065)},
            "mean of 8": {"psnr": cell(0.83, 0.61, 1.02), "ssim": cell(0.03, 0.02, 0.04),
                          "consistency": cell(-0.009, -0.0105, -0.0075)},
        },
        "interval": "Percentile bootstrap over sources and their patches, 4000 draws.",
        "panels": [],
    }  # fmt: skip
    return {**said, **changes}


def with_panels(folder: Path, count: int = 2, size: int = 16, titles=("coffee, patch 3",)) -> list:
    (folder / "pictures").mkdir(exist_ok=True)
    panels = []
    for number in range(count):
        images = []
        for at, label in enumerate(["low-res", "bicubic", "one sample", "mean of 8", "truth"]):
            file = f"pictures/{number:03d}-{at}.png"
            shade = Image.radial_gradient("L").resize((size, size))
            Image.merge("RGB", (shade, shade, Image.new("L", shade.size, 40 * at))).save(
                folder / file
            )
            images.append({"label": label, "file": file, "width": size, "height": size})
        panels.append({"title": titles[number % len(titles)], "images": images})
    return panels


def three_steps(root: Path) -> dict[str, Path]:
    """A training, a sampling and an evaluation, as a report is given them."""
    train = finished(
        root, "train", "train", {"steps": 400, "seed": 7, "dataset": {"root": "/home/me/x"}}
    )
    with (train / "metrics.jsonl").open("w") as file:
        for step in range(1, 401):
            loss = 0.9 * step**-0.45 + 0.02 * (step % 7) / 7
            file.write(json.dumps({"step": step, "loss": loss, "lr": 1e-4, "rate": 9.0}) + "\n")
        file.write('{"step": 401, "lo')
    key = results.read_json(train / "request.json")["key"]
    sample = finished(root, "sample", "sample", {"seed": 3}, {"checkpoint": key})
    key = results.read_json(sample / "request.json")["key"]
    evaluate = finished(root, "evaluate", "evaluate", {"confidence": 0.95}, {"samples": key})
    files.write_json(evaluate / "metrics.json", metrics(panels=with_panels(evaluate)))
    return {"train": train, "sample": sample, "evaluate": evaluate}


def ball(depth=24, height=32, width=40, at=0.5):
    """A bright ball with a dark core in a grey box: HU of about -1000 to 1000, as uint16."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (depth, height, width)), indexing="ij")
    radius = np.sqrt((z - 0.3 * at) ** 2 + y**2 + (x + 0.3 - 0.6 * at) ** 2)
    values = np.where(radius < 0.25, -300.0, np.where(radius < 0.6, 800.0 - 900 * radius, -900.0))
    return ((values + 1000) / 2000 * 65535 + 40 * y * x).clip(0, 65535).astype(np.uint16)


def torus(count=4000):
    turn, tube = np.random.default_rng(3).uniform(0, 2 * np.pi, (2, count))
    ring = 1 + 0.4 * np.cos(tube)
    return np.stack([ring * np.cos(turn), 0.4 * np.sin(tube), ring * np.sin(turn)], axis=1)


def clip(frames=12, height=36, width=48):
    y, x = np.mgrid[:height, :width]
    turn = np.arange(frames)[:, None, None] / frames * 2 * np.pi
    away = np.hypot(x - width / 2 - 14 * np.cos(turn), y - height / 2 - 9 * np.sin(turn))
    light = (255 * np.exp(-((away / 6) ** 2))).astype(np.uint8)
    back = np.broadcast_to((x * 3 + 20).astype(np.uint8), light.shape)
    return np.stack([np.maximum(light, back // 2), light, 255 - back], axis=-1)


def with_viewers(root: Path, label=str) -> dict[str, Path]:
    """`three_steps`, whose evaluation shows a panel of every kind; `label` makes every text."""
    run = three_steps(root)
    folder = run["evaluate"]
    moving = clip()
    cloud, scan = torus(), ball()
    coarse = (ball(at=0.6) >> 8).astype(np.uint8)
    spacing = (2.0, 1.0, 1.0)
    given = [
        Panel(label("clip of a ball"), clips={
            label("coarse"): Clip(moving[:, ::3, ::3].repeat(3, 1).repeat(3, 2), 12.0),
            label("restored"): Clip(moving, 12.0), label("truth"): Clip(moving[..., 0], 12.0)}),
        Panel(label("scan 12"), volumes={
            label("restored"): Volume(scan, -1000.0, 1000.0, "HU", spacing, (40.0, 800.0)),
            label("truth"): Volume(coarse, -1000.0, 1000.0, "HU", spacing)}),
        Panel(label("shape 3"), clouds={
            label("coloured by height"): Cloud(cloud),
            label("red"): Cloud(cloud[:900], np.full((900, 3), (200, 60, 50), np.uint8))}),
    ]  # fmt: skip
    (folder / "views").mkdir()
    panels = with_panels(folder) + write_panels(given, folder / "views")
    files.write_json(folder / "metrics.json", metrics(panels=panels))
    with (run["train"] / "metrics.jsonl").open("a") as file:
        for step in range(40, 401, 40):
            loss = 1.1 * step**-0.42
            row = {"val/loss": loss, "val/low": 0.9 * loss, "val/high": 1.12 * loss, "val/n": 64}
            file.write("\n" * (step == 40) + json.dumps({"step": step, **row}) + "\n")
    return run
