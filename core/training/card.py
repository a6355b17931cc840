"""The card laid beside every checkpoint: what the network is, was trained on, and is good for.

Markdown with a YAML head, as model hubs read it.  Everything a program may want to know stands in
the head, under ``polymode``; the text below says it for people.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.parts.config import plain
from core.parts.registry import Spec, installed_version
from core.parts.yaml_file import parse_yaml
from core.request import TrainRequest
from core.training.validation import CONFIDENCE, Standing

CARDS = Path(__file__).resolve().parents[2] / "data_cards"
FROM_CARD = ("pretty_name", "version", "license", "origin", "personal_data")
PACKAGES = ("polymode", "torch", "numpy", "safetensors")


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Args:
        request: resolved.
        summaries: one line each on the task and the network.
        data: dataset's full name and split -> SHA-256 of its items.
        parameters: trainable numbers.
        start: SHA-256 of the weights training began with; empty for random ones.
        processes: that shared each batch.
    """

    request: TrainRequest
    summaries: tuple[str, str]
    data: Mapping[tuple[str, str], str]
    parameters: int
    start: str
    processes: int


@dataclass(frozen=True)
class State:
    """How far training is.

    Args:
        step: taken.
        loss: mean of recent steps, if any counted.
        skipped: steps left out because they were not finite.
        rollbacks: times it went back to a checkpoint for that reason.
        standing: of validation.
    """

    step: int
    loss: float | None
    skipped: int
    rollbacks: int
    standing: Standing


def card(facts: Facts, state: State) -> str:
    """The text of the card."""
    import yaml

    head = yaml.safe_dump(_head(facts, state), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n{_body(facts, state)}"


def _head(facts: Facts, state: State) -> dict[str, Any]:
    request = facts.request
    head: dict[str, Any] = {
        "library_name": "polymode",
        "tags": ["diffusion", *request.task.name.split("/")],
        "polymode": {
            "request": plain(request),
            "parameters": facts.parameters,
            "seed": request.seed,
            "start": facts.start or None,
            "processes": facts.processes,
            "training": {
                "step": state.step,
                "steps": request.steps,
                "loss": state.loss,
                "skipped": state.skipped,
                "rollbacks": state.rollbacks,
            },
            "validation": _validation(request, state.standing),
            "data": [
                {"name": name, "split": split, "digest": digest, **_of_card(name)}
                for (name, split), digest in facts.data.items()
            ],
            "software": software(),
        },
    }
    if state.standing.loss is not None:
        head["model-index"] = [_index(request, state.standing)]
    return head


def _validation(request: TrainRequest, standing: Standing) -> dict[str, Any] | None:
    if standing.loss is None:
        return None
    return {
        "step": standing.step,
        "dataset": held_out_spec(request).name,
        "split": "test",
        **plain(standing.loss),
        "confidence": CONFIDENCE,
        "best_step": standing.best_step,
        "best": standing.best,
    }


def _index(request: TrainRequest, standing: Standing) -> dict[str, Any]:
    """The measured loss in the form that model hubs show."""
    loss, data = standing.loss, held_out_spec(request).name
    assert loss is not None
    return {
        "name": f"{request.task.name} by {request.network.name}",
        "results": [
            {
                "task": {"type": request.task.name},
                "dataset": {"type": data, "name": data, "split": "test"},
                "metrics": [
                    {
                        "type": "denoising loss",
                        "value": loss.mean,
                        "args": {"low": loss.low, "high": loss.high, "n": loss.n},
                    }
                ],
            }
        ],
    }


def held_out_spec(request: TrainRequest) -> Spec:
    """The dataset whose ``test`` split is held out."""
    return request.validation or request.dataset


def _of_card(dataset: str) -> dict[str, Any]:
    """What the dataset's own card says at its head."""
    path = CARDS / f"{dataset.replace('/', '-')}.md"
    if not path.is_file():
        return {"card": None}
    head = parse_yaml(
        path.read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n")[0], str(path)
    )
    return {"card": f"data_cards/{path.name}", **{k: head[k] for k in FROM_CARD if k in head}}


def software() -> dict[str, str | None]:
    """Versions of what computes the numbers."""
    versions = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


# --- for people ---------------------------------------------------------------------------------


def _body(facts: Facts, state: State) -> str:
    request = facts.request
    task, network = facts.summaries
    start = "weights taken from another checkpoint" if facts.start else "random weights"
    done = "finished" if state.step >= request.steps else f"at step {state.step:,}"
    loss = "not known yet" if state.loss is None else f"{state.loss:.4g}"
    return "\n".join(
        [
            f"# {request.task.name} by {request.network.name}",
            f"Task: {task}. Network: {network}; {facts.parameters:,} parameters. Training from "
            f"{start}, {done} of {request.steps:,}; loss of recent steps {loss}; "
            f"{state.skipped} steps skipped, {state.rollbacks} rollbacks; seed {request.seed}.",
            "## Intended use",
            f"What the task says: {task[0].lower() + task[1:]}, on data like the training data. "
            "`polymode sample` draws from it; `polymode evaluate` scores what was drawn.",
            "## Training data",
            *(_data_line(*which, digest) for which, digest in facts.data.items()),
            "## Evaluation",
            _evaluation(request, state.standing),
            "## Limits",
            "The loss above says how well noise is removed, not how good samples are: evaluate "
            "them on the task. Nothing is known of data unlike the training data. Samples may "
            "repeat training items and carry their biases. Not for decisions about people, "
            "diagnosis included, without validation of its own.",
            "## To get it again",
            "The request at the head, with the same software, data, device and number of threads, "
            "gives the same weights; a rollback also depends on when checkpoints were written.",
            "",
        ]
    )


def _data_line(name: str, split: str, digest: str) -> str:
    found = _of_card(name)
    if found["card"] is None:
        said = "its card is not part of this installation; see data_cards/ in the source"
    else:
        said = "; ".join(f"{key}: {found[key]}" for key in FROM_CARD[1:] if key in found)
        said = f"{found.get('pretty_name', name)}; {said}; card {found['card']}"
    return f"- `{name}`, split `{split}`: {said}; SHA-256 `{digest}`"


def _evaluation(request: TrainRequest, standing: Standing) -> str:
    loss = standing.loss
    if loss is None:
        return "No validation was asked for (`validate_every`) or none is due yet."
    return (
        f"Loss of the averaged weights on {loss.n} items of the `test` split of "
        f"`{held_out_spec(request).name}` at step {standing.step:,}: {loss.mean:.4g} "
        f"[{loss.low:.4g}, {loss.high:.4g}] ({CONFIDENCE:.0%}, sources redrawn). Lowest so far: "
        f"{standing.best:.4g} at step {standing.best_step:,}; having been chosen by it, it is a "
        "little too low as an estimate of that step's loss."
    )
