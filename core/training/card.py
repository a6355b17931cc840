"""The card laid beside every checkpoint: what the network is, was trained on, and is good for.

Markdown with a YAML head, as model hubs read it.  The head, under ``polymode``, is for programs;
the text below it is for people.
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
from core.training.state import TrainingState
from core.training.validation import CONFIDENCE, ValidationState

CARDS = Path(__file__).resolve().parents[2] / "data_cards"
FROM_CARD = ("pretty_name", "version", "license", "origin", "personal_data")
PACKAGES = ("polymode", "torch", "numpy", "safetensors")


@dataclass(frozen=True)
class Facts:
    """The facts of a run that its card states.

    Args:
        request: resolved.
        summaries: one line each on the task and the network.
        data: dataset's full name and split -> SHA-256 of its items.
        parameters: trainable numbers.
        start: SHA-256 of the initial weights; empty for random ones.
        processes: number of data-parallel processes.
    """

    request: TrainRequest
    summaries: tuple[str, str]
    data: Mapping[tuple[str, str], str]
    parameters: int
    start: str
    processes: int


def card(facts: Facts, state: TrainingState, loss: float | None) -> str:
    """The text of the card.

    Args:
        facts: of the run.
        state: of the checkpoint beside it.
        loss: mean of recent steps, if any counted.
    """
    import yaml

    head = yaml.safe_dump(_head(facts, state, loss), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n{_body(facts, state, loss)}"


def _head(facts: Facts, state: TrainingState, loss: float | None) -> dict[str, Any]:
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
                "loss": loss,
                "skipped": state.skipped,
                "rollbacks": state.rollbacks,
            },
            "validation": _validation(request, state.validation),
            "data": [
                {"name": name, "split": split, "digest": digest, **_of_card(name)}
                for (name, split), digest in facts.data.items()
            ],
            "software": software(),
        },
    }
    if state.validation.loss is not None:
        head["model-index"] = [_index(request, state.validation)]
    return head


def _validation(request: TrainRequest, validation: ValidationState) -> dict[str, Any] | None:
    if validation.loss is None:
        return None
    return {
        "step": validation.step,
        "dataset": held_out_spec(request).name,
        "split": "test",
        **plain(validation.loss),
        "confidence": CONFIDENCE,
        "best_step": validation.best_step,
        "best": validation.best,
    }


def _index(request: TrainRequest, validation: ValidationState) -> dict[str, Any]:
    """The measured loss in the form that model hubs show."""
    loss, data = validation.loss, held_out_spec(request).name
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
    """Fields of the dataset's own card."""
    path = CARDS / f"{dataset.replace('/', '-')}.md"
    if not path.is_file():
        return {"card": None}
    head = parse_yaml(
        path.read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n")[0], str(path)
    )
    return {"card": f"data_cards/{path.name}", **{k: head[k] for k in FROM_CARD if k in head}}


def software() -> dict[str, str | None]:
    """Versions of the software that computes the numbers."""
    versions = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


# --- for people ---------------------------------------------------------------------------------


def _body(facts: Facts, state: TrainingState, loss: float | None) -> str:
    request = facts.request
    task, network = facts.summaries
    start = "weights taken from another checkpoint" if facts.start else "random weights"
    done = "finished" if state.step >= request.steps else f"at step {state.step:,}"
    recent = "not known yet" if loss is None else f"{loss:.4g}"
    return "\n".join(
        [
            f"# {request.task.name} by {request.network.name}",
            f"Task: {task}. Network: {network}; {facts.parameters:,} parameters. Training from "
            f"{start}, {done} of {request.steps:,}; loss of recent steps {recent}; "
            f"{state.skipped} steps skipped, {state.rollbacks} rollbacks; seed {request.seed}.",
            "## Intended use",
            f"The task: {task[0].lower() + task[1:]}, on data like the training data. "
            "`polymode sample` draws from it; `polymode evaluate` scores what was drawn.",
            "## Training data",
            *(_data_line(*which, digest) for which, digest in facts.data.items()),
            "## Evaluation",
            _evaluation(request, state.validation),
            "## Limits",
            "The loss above measures denoising, not the quality of samples: evaluate them on the "
            "task. Results on data unlike the training data are unknown. Samples may "
            "repeat training items and carry their biases. Not for decisions about people, "
            "diagnosis included, without validation of its own.",
            "## Reproducing this run",
            "The request at the head, with the same software, data, device and number of threads, "
            "gives the same weights; a rollback also depends on when checkpoints were written.",
            "",
        ]
    )


def _data_line(name: str, split: str, digest: str) -> str:
    found = _of_card(name)
    if found["card"] is None:
        described = "its card is not part of this installation; see data_cards/ in the source"
    else:
        described = "; ".join(f"{key}: {found[key]}" for key in FROM_CARD[1:] if key in found)
        described = f"{found.get('pretty_name', name)}; {described}; card {found['card']}"
    return f"- `{name}`, split `{split}`: {described}; SHA-256 `{digest}`"


def _evaluation(request: TrainRequest, validation: ValidationState) -> str:
    loss = validation.loss
    if loss is None:
        return "No validation was requested (`validate_every`) or none is due yet."
    return (
        f"Loss of the averaged weights on {loss.n} items of the `test` split of "
        f"`{held_out_spec(request).name}` at step {validation.step:,}: {loss.mean:.4g} "
        f"[{loss.low:.4g}, {loss.high:.4g}] ({CONFIDENCE:.0%}, bootstrap over sources). Lowest so "
        f"far: {validation.best:.4g} at step {validation.best_step:,}; since the step was selected "
        "by it, it is biased low as an estimate of that step's loss."
    )
