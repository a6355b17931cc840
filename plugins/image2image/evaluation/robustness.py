"""A classifier's accuracy under attack, with and without purification.

Always measured: no attack; an attack on the bare classifier, transferred to the purified one; an
attack with the identity's gradient for the purifier (BPDA); and one with its exact gradients.
Robust accuracy is the lowest of them: exact gradients took DiffPure's 71.3 % to 44.5 % (Chen et
al. 2023, arXiv:2305.15241).
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.data import Dataset, collate
from core.errors import InputError
from core.parts.config import bind, configure, plain
from core.process.noise import Noise
from core.progress import counter
from core.request import Emit, Machine, silent
from core.results.evaluation import Evaluation, Row
from core.results.metrics import INTERVAL, interval, proportion
from core.results.panels import write_panels
from core.results.sheet import to_bytes
from core.storage.files import make_folder
from core.task import Figure, Panel
from plugins.image2image.evaluation.attacks import Ball, Victim, pgd
from plugins.image2image.evaluation.classifier import load_classifier
from plugins.image2image.inference.purify import Purified, Way, load_prior
from plugins.image2image.request import RobustnessRequest, RobustnessResult

BARE, BARE_ATTACKED = "bare, no attack", "bare, PGD"
CLEAN, CARRIED = "purified, no attack", "purified, PGD on the bare classifier"
IDENTITY, EXACT = "purified, BPDA + EOT", "purified, exact gradients + EOT"
ATTACKS = (CLEAN, CARRIED, IDENTITY, EXACT)
ACCURACY = Figure("accuracy", "", "higher")


def evaluate(
    request: RobustnessRequest,
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> RobustnessResult:
    """Measure a classifier's accuracy under attack, with and without purification.

    Args:
        request: model, classifier, dataset and attacks.
        out: ``metrics.json`` and ``pictures/`` go there.
        machine: where to run.
        emit: receives progress.

    Raises:
        InputError: a part or option is wrong, or model, classifier and dataset do not fit.
    """
    start = time.perf_counter()
    request = bind(RobustnessRequest, plain(request))
    model = load_prior(request.checkpoint, machine, emit=emit)
    classifier = load_classifier(request.classifier, request.module).to(model.device)
    defended = Purified(
        model.denoise, classifier, level=request.level,
        steps=request.solver_steps, solver=configure("sampler", request.sampler)(),
    )  # fmt: skip
    data = configure("dataset", request.dataset)(request.split)
    items = _spread(len(data), request.count)
    make_folder(out)
    right: dict[str, list[bool]] = {}
    panels: list[Panel] = []
    batches = -(-len(items) // request.batch)
    contest = Attacks(request, classifier, defended, _counter(request, batches, right, emit))
    pictured = {items[i] for i in _spread(len(items), request.pictures)}
    for first in range(0, len(items), request.batch):
        chosen = items[first : first + request.batch]
        x, target = _batch(data, chosen, request, model.task.channels, model.device)
        _check(classifier, x, target)
        found = contest.attacked(x, target, chosen)
        for method, hits in contest.right(found, target, chosen).items():
            right.setdefault(method, []).extend(hits.tolist())
        names = [data.name(item) if item in pictured else "" for item in chosen]
        panels += contest.panels(found, names, chosen)
    names = [data.name(item) for item in items], [data.source(item) for item in items]
    return _written(request, out, names, right, panels, time.perf_counter() - start)


def _counter(
    request: RobustnessRequest, batches: int, right: dict[str, list[bool]], emit: Emit
) -> Callable[[], None]:
    """A function to call at every gradient of an attack on the defence; it emits progress."""
    progress, done = counter(emit, batches * (request.steps + 1) * 2 * request.eot, "call"), 0

    def count() -> None:
        nonlocal done
        done += 1
        hits = right.get(EXACT)
        progress(done, **({"right": sum(hits) / len(hits)} if hits else {}))

    return count


@torch.no_grad()
def _check(classifier: nn.Module, x: Float[Tensor, " b *shape"], target: Int[Tensor, " b"]) -> None:
    """Refuse a classifier without a logit for each class."""
    logits, top = classifier(x), int(target.max())
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] <= top:
        raise InputError(
            f"classifier: expected logits ({len(x)}, {top + 1} or more), one for each class, got "
            f"{tuple(logits.shape)}"
        )


class Attacks:
    """Attacks on a classifier and on its defence, and their random streams.

    The stream of item i is that of (seed, purpose, i): it does not depend on the batch, and
    accuracies are measured with other streams than the attacks'.

    Args:
        request: options of the attacks.
        classifier: the bare classifier.
        defended: the purified classifier.
        count: called at every gradient of an attack on the defence.
    """

    def __init__(
        self,
        request: RobustnessRequest,
        classifier: nn.Module,
        defended: Purified,
        count: Callable[[], None],
    ) -> None:
        self.request, self.classifier, self.defended = request, classifier, defended
        self._count = count
        self.ball = Ball(request.norm, request.eps)

    def _noise(self, purpose: str, items: list[int]) -> Noise:
        return Noise.of(self.request.seed, purpose, each=items)

    def _through(self, way: Way, items: list[int]) -> Victim:
        """The defended classifier with gradients by `way`, redrawn at every call."""
        noise = self._noise(f"{way} draws", items)

        def victim(x: Tensor) -> Tensor:
            self._count()
            return self.defended(x, noise, way=way)

        return victim

    def attacked(
        self, x: Float[Tensor, " b *shape"], target: Int[Tensor, " b"], items: list[int]
    ) -> dict[str, Float[Tensor, " b *shape"]]:
        """The images that each method's accuracy is measured on."""

        def attack(name: str, victim: Victim, draws: int) -> Tensor:
            noise = self._noise(f"{name} start", items)
            steps = self.request.steps
            return pgd(victim, x, target, noise, ball=self.ball, steps=steps, draws=draws)

        bare, draws = attack("bare", self.classifier, 1), self.request.eot
        return {
            BARE: x,
            BARE_ATTACKED: bare,
            CLEAN: x,
            CARRIED: bare,
            IDENTITY: attack("identity", self._through("identity", items), draws),
            EXACT: attack("exact", self._through("exact", items), draws),
        }

    @torch.no_grad()
    def right(
        self, found: dict[str, Tensor], target: Int[Tensor, " b"], items: list[int]
    ) -> dict[str, Bool[Tensor, " b"]]:
        """The images that each method classifies correctly, on streams that no attack uses."""
        right = {}
        for method, x in found.items():
            if method in ATTACKS:
                logits = self.defended(x, self._noise(f"{method} counted", items))
            else:
                logits = self.classifier(x)
            right[method] = logits.argmax(1) == target
        return right

    @torch.no_grad()
    def panels(self, found: dict[str, Tensor], names: list[str], items: list[int]) -> list[Panel]:
        """Of each item with a name: clean, attacked with exact gradients, and that purified."""
        rows = [row for row, name in enumerate(names) if name]
        if not rows:
            return []
        noise = self._noise(f"{EXACT} counted", [items[row] for row in rows])
        clean, attacked = found[CLEAN][rows], found[EXACT][rows]
        purified = self.defended.purify(attacked, noise)
        return [
            _panel(names[row], *views)
            for row, *views in zip(rows, clean, attacked, purified, strict=True)
        ]


def _spread(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, spread evenly."""
    count = min(length, count)
    return [i * length // count for i in range(count)]


def _batch(
    data: Dataset, items: list[int], request: RobustnessRequest, channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    batch = collate(data, items)
    if "class" not in batch or "image" not in batch or batch["image"].shape[1] != channels:
        has = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in batch.items())
        raise InputError(
            f"dataset: expected items with a class and an image of {channels} channels, those of "
            f"the model; {request.dataset.name} has {has}; choose another"
        )
    return batch["image"].to(device), batch["class"].to(device)


def _written(
    request: RobustnessRequest,
    out: Path,
    names: tuple[list[str], list[str]],
    right: dict[str, list[bool]],
    shown: list[Panel],
    seconds: float,
) -> RobustnessResult:
    """Write ``metrics.json`` in the form of `core.runs.evaluate`, for reports."""
    n, sources = len(right[BARE]), names[1]
    accuracies = {
        method: proportion(sum(hits), n, confidence=request.confidence)
        for method, hits in right.items()
    }
    worst = min(ATTACKS, key=lambda method: accuracies[method].mean)
    gain = [float(a) - float(b) for a, b in zip(right[worst], right[BARE_ATTACKED], strict=True)]
    report = Evaluation(
        task="image2image/robustness",
        dataset=plain(request.dataset),
        split=request.split,
        n=n,
        sources=list(dict.fromkeys(sources)),
        draws=1,
        confidence=request.confidence,
        interval=f"of accuracies Wilson's; of the difference {INTERVAL.format(draws=4000)}",
        figures={"accuracy": ACCURACY},
        reference=BARE_ATTACKED,
        methods={
            method: Row("draw" if method in ATTACKS else "baseline", {"accuracy": found})
            for method, found in accuracies.items()
        },
        differences={worst: {"accuracy": interval(gain, sources, confidence=request.confidence)}},
        panels=write_panels(shown, make_folder(out / "pictures")) if shown else [],
        further={
            "robust": {"attack": worst, **plain(accuracies[worst])},
            "attacks": {
                name: getattr(request, name)
                for name in ("norm", "eps", "steps", "eot", "level", "solver_steps", "seed")
            },
            "items": [
                {"name": name, **{method: hits[i] for method, hits in right.items()}}
                for i, name in enumerate(names[0])
            ],
        },
    )
    return RobustnessResult(
        metrics=report.write(out),
        robust=accuracies[worst].mean,
        attack=worst,
        accuracies={method: found.mean for method, found in accuracies.items()},
        seconds=seconds,
    )


def _panel(title: str, clean: Tensor, attacked: Tensor, purified: Tensor) -> Panel:
    """An image clean, attacked and purified, and the perturbation amplified."""
    change = attacked - clean
    gain = 1 / max(float(change.abs().max()), 1e-6)
    images = {"clean": clean, "attacked": attacked, "purified": purified,
              f"attack ×{gain:.1f}": gain * change}  # fmt: skip
    return Panel(title, {label: to_bytes(image) for label, image in images.items()})
