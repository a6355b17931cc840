"""Panels that steps wrote, read as plain values and made part of a page.

A panel comes from a plug-in and perhaps from elsewhere: every value is checked, files are read
from the step's own folder alone, and a view that does not match its description is left out
and counted.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SIDE = 1 << 15  # more pixels along a side are shown by no browser
MAX_POINTS = 20_000
TRUTH = "truth"  # label of the image that stays in view beside the others
MAX_SERIES, MAX_ROWS = 20, 500  # of a chart
COUNTS = {
    "images": ("width", "height"),
    "whole": ("width", "height", "full_width", "full_height"),
    "clips": ("width", "height", "frames", "across"),
    "volumes": ("width", "height", "depth", "across", "bits"),
    "clouds": ("points",),
}
FIGURES = {"clips": ("rate",), "volumes": ("low", "high", "centre", "window")}

Facts = dict[str, Any]


def read_panels(folder: Path, panels: Any, reference: str = "") -> Iterator[Facts]:
    """Panels with the bytes of their views in the text; one without any view is left out.

    Args:
        folder: of the step that wrote them.
        panels: as `core.results.panels.write_panels` writes them.
        reference: label of the picture that others are first compared with.
    """
    for panel in panels if isinstance(panels, list) else []:
        if not isinstance(panel, Mapping):
            continue
        read: Facts = {name: str(panel.get(name, "")) for name in ("title", "note")}
        read["lost"] = 0
        for kind in COUNTS:
            stated = panel.get(kind, [])
            views = [
                _view(folder, kind, view) for view in (stated if isinstance(stated, list) else [])
            ]
            read[kind] = [view for view in views if view is not None]
            read["lost"] += len(views) - len(read[kind])
        if any(read[kind] for kind in COUNTS):
            labels, wholes = ([v["label"] for v in read[kind]] for kind in ("images", "whole"))
            truth = labels.index(TRUTH) if TRUTH in labels else None
            compared = _compared(wholes, reference) if _one_size(read["whole"]) else {}
            yield {**read, "truth": truth, **_compared(labels, reference), "wholes": compared}


def read_charts(charts: Any) -> Iterator[Facts]:
    """Charts that a step wrote: lines of numbers over a number; what is none is left out.

    Args:
        charts: a list of ``{"title", "x": {"label", "log"}, "y": {"label", "unit"}, "series":
            [{"label", "points": [[x, y] or [x, y, low, high], ...]}, ...]}``.
    """
    for chart in charts if isinstance(charts, list) else []:
        if not isinstance(chart, Mapping):
            continue
        x, y = (one if isinstance(one := chart.get(k), Mapping) else {} for k in ("x", "y"))
        log = x.get("log") is True
        series = chart.get("series")
        lines = []
        for one in (series if isinstance(series, list) else [])[:MAX_SERIES]:
            stated = one.get("points") if isinstance(one, Mapping) else None
            points = [
                _point(p, log) for p in (stated if isinstance(stated, list) else [])[:MAX_ROWS]
            ]
            known = sorted((p for p in points if p is not None), key=lambda p: p["x"])
            if known:
                lines.append({"label": str(one.get("label", "")), "points": known})
        if lines:
            yield {
                "title": str(chart.get("title", "")),
                "x": {"label": str(x.get("label", "")), "log": log},
                "y": {"label": str(y.get("label", "")), "unit": str(y.get("unit", ""))},
                "series": lines,
            }


def _point(stated: Any, log: bool) -> Facts | None:
    if not isinstance(stated, list) or len(stated) not in (2, 4):
        return None
    if not all(isinstance(n, int | float) and abs(n) < 1e12 for n in stated):
        return None
    x, y, low, high = [*stated, stated[1], stated[1]][:4]
    return {"x": x, "y": y, "low": low, "high": high} if x > 0 or not log else None


def panel_facts(panel: Facts) -> Facts:
    """A read panel without the bytes of its views, for JSON."""
    views = {
        kind: [{k: v for k, v in view.items() if k != "source"} for view in panel[kind]]
        for kind in COUNTS
        if panel[kind]
    }
    note = {"note": panel["note"]} if panel["note"] else {}
    return {"title": panel["title"], **note, **views}


def sheet(path: Path, title: str) -> Facts | None:
    """A step's one picture as a panel, if there is one."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError:
        return None
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    view = {"label": "first samples", "file": path.name, "width": width, "height": height}
    return next(read_panels(path.parent, [{"title": title, "images": [view]}]), None)


def _compared(labels: list[str], reference: str) -> Facts:
    """Which two pictures a slider stands between at first: reference and the one before last."""
    if len(labels) < 2:
        return {"before": 0, "after": 0}
    before = labels.index(reference) if reference in labels else 0
    last = len(labels) - 1
    after = last - 1 if last > 1 and before != last - 1 else last
    return {"before": before, "after": after if after != before else (before + 1) % len(labels)}


def _one_size(views: list[Facts]) -> bool:
    """Whether there are two views or more, all of one size: a slider would stretch others."""
    return len(views) > 1 and len({(v["full_width"], v["full_height"]) for v in views}) == 1


def _view(folder: Path, kind: str, view: Any) -> Facts | None:
    if not isinstance(view, Mapping) or not isinstance(view.get("file"), str):
        return None
    read: Facts = {"label": str(view.get("label", "")), "file": view["file"]}
    for name in COUNTS[kind]:
        value = view.get(name)
        if not isinstance(value, int) or not 1 <= value <= SIDE:
            return None
        read[name] = value
    for name in FIGURES.get(kind, ()):
        value = view.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        read[name] = value
    held = _held(folder, view["file"])
    if held is None or not FITS[kind](read, view, held):
        return None
    text = base64.b64encode(held).decode()
    if kind == "clouds":
        return {**read, "source": text}
    return {**read, "source": f"data:image/{'jpeg' if kind == 'whole' else 'png'};base64,{text}"}


def _held(folder: Path, name: str) -> bytes | None:
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        return path.read_bytes() if inside else None
    except (OSError, ValueError):
        return None


def _picture(read: Facts, view: Any, held: bytes) -> bool:
    return held.startswith(PNG)


def _whole(read: Facts, view: Any, held: bytes) -> bool:
    return held.startswith(JPEG)


def _clip(read: Facts, view: Any, held: bytes) -> bool:
    return _sprite(read, held, read["frames"]) and 0 < read["rate"] <= 1000


def _volume(read: Facts, view: Any, held: bytes) -> bool:
    spacing = view.get("spacing", [1, 1, 1])
    known = isinstance(spacing, list) and len(spacing) == 3
    if not known or not all(isinstance(s, int | float) and 0 < s < math.inf for s in spacing):
        return False
    read.update(spacing=spacing, unit=str(view.get("unit", "")))
    fair = read["bits"] in (8, 16) and read["high"] > read["low"] and read["window"] > 0
    return fair and _sprite(read, held, read["depth"])


def _cloud(read: Facts, view: Any, held: bytes) -> bool:
    return read["points"] <= MAX_POINTS and len(held) == 9 * read["points"]


def _sprite(read: Facts, held: bytes, count: int) -> bool:
    """Whether a PNG's header has the size of so many pictures in rows."""
    across = read["across"]
    size = (across * read["width"], math.ceil(count / across) * read["height"])
    stated = tuple(int.from_bytes(held[at : at + 4], "big") for at in (16, 20))
    return held.startswith(PNG) and across <= count and stated == size and max(size) <= SIDE


FITS = {"images": _picture, "whole": _whole, "clips": _clip, "volumes": _volume, "clouds": _cloud}
