"""A fault to plant, and the shapes that many of one area share."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`right` stands once in `file`; `wrong` is planted; a test in `noticed_by` must fail.

    `noticed_by` is one file of tests, or several with spaces between them.
    """

    name: str
    file: str
    right: str
    wrong: str
    noticed_by: str
    choose: str = ""


def _files(folder: str, *names: str) -> str:
    return " ".join(f"{folder}/test_{name}.py" for name in names)


SOLVERS = _files(
    "core/sampler", "solvers", "ancestral", "exponential", "unipc", "composed", "adaptive_sde"
)
NETWORKS = _files("core/network", "network", "layers", "embedding", "mlp")

# Where to look for faults of each solver: words in the names of tests.
LOOK = {
    "ddim": "DDIM or ddim",
    "ancestral": "Ancestral or ancestral or share",
    "euler": "DDIM",
    "euler_maruyama": "EulerMaruyama",
    "exponential": "Multistep",
    "multistep": "Multistep",
    "grid": "outside",
    "graded_start": "graded_start",
    "phi": "phi",
    "moment": "moments",
    "singlestep": "Singlestep",
    "unipc": "UniPC",
    "sa_solver": "SASolver",
    "adaptive_sde": "adaptive_sde or halved",
    "heun": "Heun",
    "churn": "Churn",
    "linear_multistep": "LinearMultistep",
    "predictor_corrector": "PredictorCorrector or langevin",
    "stochastic_then_ode": "Switched or switched or StochasticThenODE",
}


def solver(name: str, file: str, right: str, wrong: str) -> Fault:
    look = LOOK[name.split(":")[0]]
    return Fault(name, f"core/sampler/{file}.py", right, wrong, SOLVERS, look)


def commit(name: str, file: str, right: str, wrong: str, look: str) -> Fault:
    return Fault(f"checkpoint: {name}", file, right, wrong, "reliability/test_commit.py", look)


def damage(name: str, file: str, right: str, wrong: str, look: str = "") -> Fault:
    return Fault(f"damage: {name}", file, right, wrong, "reliability/test_damage.py", look)


def training(name: str, file: str, right: str, wrong: str, where: str, look: str) -> Fault:
    """Noticed by the battery's file of that name, or by `core/training/test_run.py`."""
    noticed_by = f"reliability/test_training_{where}.py" if where else "core/training/test_run.py"
    return Fault(f"training: {name}", f"core/training/{file}.py", right, wrong, noticed_by, look)


def network(name: str, file: str, right: str, wrong: str, look: str) -> Fault:
    return Fault(name, f"core/network/{file}.py", right, wrong, NETWORKS, look)


def medical(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("plugins/medical", name, file, right, wrong, where, look)


def scans(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("core/scans", name, file, right, wrong, where, look)


def images(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("core/images", name, file, right, wrong, where, look)


def image(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("plugins/image2image", name, file, right, wrong, where, look)


def segmentation(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("plugins/segmentation", name, file, right, wrong, where, look)


def video(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("plugins/video", name, file, right, wrong, where, look)


def pipeline(name: str, file: str, right: str, wrong: str, where: str, look: str = "") -> Fault:
    return of("pipelines", name, file, right, wrong, where, look)


def of(folder: str, name: str, file: str, right: str, wrong: str, where: str, look: str) -> Fault:
    """Of a file of a plug-in or of pipelines, noticed by a test that mirrors its folders."""
    noticed_by = f"{folder}/{where}.py"
    return Fault(name, f"{folder}/{file}.py", right, wrong, noticed_by, look)


def tiles(name: str, right: str, wrong: str) -> Fault:
    noticed_by = "plugins/image2image/inference/test_draws.py"
    return Fault(name, "core/denoiser/tiles.py", right, wrong, noticed_by, "seam")
