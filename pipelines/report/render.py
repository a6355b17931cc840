"""One self-contained HTML page about a run's steps, and the same facts as JSON.

The verdict comes first, then pictures, then how it was made.  The page loads nothing from
anywhere, shows whatever text it is given as text, and names no absolute path.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.errors import InputError
from core.progress import counter, duration
from core.request import Emit, Machine, silent
from core.storage import files
from pipelines.report.charts import CHART, NODE, curve, graph, line_chart, trial_curves
from pipelines.report.facts import Facts, gather
from pipelines.report.panels import panel_facts, read_panels, sheet
from pipelines.report.request import ReportRequest, ReportResult
from pipelines.report.verdict import FOREST, signed
from pipelines.store import results

MAX_BYTES = 20 << 20
PAGE = Path(__file__).with_name("page")
SCRIPTS = ("theme", "steps", "pictures", "viewer", "clip", "volume", "cloud", "wide")


def report(
    request: ReportRequest,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> ReportResult:
    """Write ``report.html`` and ``report.json`` about finished steps.

    Args:
        request: the page's heading.
        inputs: label to the step's folder in the store.
        out: an existing folder.
        machine: not used: a page is written by one thread.
        emit: called with the number of steps whose images are read.

    Raises:
        InputError: no steps, a folder that holds no result, or a page over 20 MB without pictures.
    """
    if not inputs:
        raise InputError("report: nothing to show; name at least one step in inputs")
    facts = gather(request.title, inputs)
    count, panels = counter(emit, len(facts["steps"]), "step"), []
    for done, step in enumerate(facts["steps"], start=1):
        panels += _panels(inputs[step["label"]], step)
        count(done)
    if not panels:  # of what is not evaluated, the samples themselves
        panels = [panel for step in facts["steps"] for panel in _sheet(inputs, step["label"])]
    for step in facts["steps"]:
        step["panels"] = [panel_facts(panel) for panel in panels if panel["step"] == step["label"]]
        step.get("evaluation", {}).pop("panels", None)  # as they were written, unchecked
    shown = len(panels)
    page = render(facts, panels)
    while len(page.encode()) > MAX_BYTES and shown:
        shown = shown * 3 // 4
        page = render(facts, panels[:shown], left_out=len(panels) - shown)
    if len(page.encode()) > MAX_BYTES:
        raise InputError(
            f"report: over {MAX_BYTES >> 20} MB even without pictures; show fewer steps"
        )
    facts["panels_shown"], facts["panels_left_out"] = shown, len(panels) - shown
    facts["views_unreadable"] = sum(panel["lost"] for panel in panels)
    result = ReportResult(report=out / "report.html", data=out / "report.json")
    files.write_json(result.data, facts)
    files.write_text(result.report, page)
    return result


def _panels(folder: Path, step: Facts) -> Iterator[Facts]:
    """Panels of an evaluation or of any other step."""
    evaluated = step.get("evaluation", {"panels": [], "reference": ""})
    other = (results.read_json(folder / "panels.json") or {}).get("panels")
    for panels, reference in ((evaluated["panels"], evaluated["reference"]), (other, "")):
        for panel in read_panels(folder, panels, reference):
            yield {**panel, "step": step["label"]}


def _sheet(inputs: Mapping[str, Path], label: str) -> Iterator[Facts]:
    if panel := sheet(inputs[label] / "sheet.png", "samples"):
        yield {**panel, "step": label}


def render(facts: Facts, panels: Sequence[Facts], *, left_out: int = 0) -> str:
    """The page as text.

    The policy in its head names its one script and one style by their digests: whatever else a
    string may bring in runs nowhere and styles nothing.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, signed=signed)
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    parts = [(PAGE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    script = "\n".join(['"use strict";', *parts])
    alone = [p for p in panels if len(p["images"]) == 1 and not _with_more(p)]
    return environment.get_template("report.html.jinja").render(
        facts=facts,
        panels=[panel for panel in panels if panel not in alone] if len(alone) > 1 else panels,
        gallery=alone if len(alone) > 1 else [],
        many=len({panel["step"] for panel in panels}) > 1,
        unreadable=sum(panel["lost"] for panel in panels),
        left_out=left_out,
        curves=[
            {"label": step["label"], **curve(step["training"], step["validation"])}
            for step in facts["steps"]
            if step.get("training")
        ],
        lines=[
            {"step": step["label"], "chart": chart, **line_chart(chart)}
            for step in facts["steps"]
            for chart in step.get("charts", [])
        ],
        searches=[
            {
                "label": step["label"],
                **step["search"],
                "curves": trial_curves(step["search"]["trials"]),
            }
            for step in facts["steps"]
            if step.get("search")
        ],
        graph=graph(facts["steps"]),
        chart=CHART,
        node=NODE,
        forest=FOREST,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(
            "default-src 'none'; img-src data:; "
            f"style-src {_digest(style)}; script-src {_digest(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
    )


def _with_more(panel: Facts) -> bool:
    return any(panel[kind] for kind in ("whole", "clips", "volumes", "clouds"))


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# --- facts -----------------------------------------------------------------------------------
