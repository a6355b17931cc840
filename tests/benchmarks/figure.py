"""A line chart of a benchmark as an SVG file, by the geometry of the report's charts."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.storage.files import make_folder
from pipelines.report.charts import CHART, line_chart
from pipelines.report.panels import read_charts

COLOURS = ("#3b7dd8", "#d9822b", "#2f9e60", "#c2417c", "#8a63d2", "#a8763e", "#5a6b7b", "#1f9fb4")
LEGEND = 18  # pixels of a line of the legend


def write_svg(
    path: Path, title: str, x: str, y: str, series: Mapping[str, Sequence[Sequence[float]]]
) -> None:
    """Write a chart of lines.

    Args:
        path: the SVG file; its folder is made.
        title: stands above the chart.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        series: points of each line by its label: x and y, or x, y and the ends of an interval.
    """
    lines = [
        {"label": label, "points": [list(point) for point in points]}
        for label, points in series.items()
    ]
    read = read_charts([{"title": title, "x": {"label": x}, "y": {"label": y}, "series": lines}])
    drawn = line_chart(next(read))
    make_folder(path.parent)
    path.write_text("\n".join(_svg(title, x, y, drawn)) + "\n", encoding="utf-8")


def _svg(title: str, x: str, y: str, drawn: Mapping[str, Any]) -> list[str]:
    """Lines of the SVG file."""
    above = 30 + LEGEND * len(drawn["lines"])
    left, right = CHART["left"], CHART["width"] - CHART["right"]
    bottom = CHART["height"] - CHART["bottom"]
    half = (CHART["top"] + bottom) / 2
    size = f'width="{CHART["width"]}" height="{CHART["height"] + above}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, line in enumerate(drawn["lines"]):
        at = 30 + LEGEND * number + LEGEND / 2
        colour = COLOURS[number % len(COLOURS)]
        out += [
            f'<line x1="{left}" x2="{left + 26}" y1="{at}" y2="{at}" stroke="{colour}"/>',
            f'<circle cx="{left + 13}" cy="{at}" r="3.5" fill="{colour}"/>',
            f'<text x="{left + 34}" y="{at + 4}">{escape(line["label"])}</text>',
        ]
    out.append(f'<g transform="translate(0 {above})">')
    for tick in drawn["y"]:
        out += [
            f'<line x1="{left}" x2="{right}" y1="{tick["at"]}" y2="{tick["at"]}" stroke="#ddd"/>',
            f'<text x="{left - 8}" y="{tick["at"] + 4}" text-anchor="end">{tick["text"]}</text>',
        ]
    for tick in drawn["x"]:
        out += [
            f'<line x1="{tick["at"]}" x2="{tick["at"]}" y1="{bottom}" y2="{bottom + 5}" '
            'stroke="black"/>',
            f'<text x="{tick["at"]}" y="{bottom + 19}" text-anchor="middle">{tick["text"]}</text>',
        ]
    middle = (left + right) / 2
    out += [
        f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="black"/>',
        f'<text x="{middle}" y="{CHART["height"] - 5}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(13 {half}) rotate(-90)" text-anchor="middle">{escape(y)}'
        "</text>",
    ]
    for number, line in enumerate(drawn["lines"]):
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<polyline points="{line["points"]}" fill="none" stroke="{colour}"/>')
        for mark in line["marks"]:
            if mark["top"] != mark["bottom"]:
                out.append(
                    f'<line x1="{mark["at"]}" x2="{mark["at"]}" y1="{mark["top"]}" '
                    f'y2="{mark["bottom"]}" stroke="{colour}"/>'
                )
            out.append(f'<circle cx="{mark["at"]}" cy="{mark["mid"]}" r="3.5" fill="{colour}"/>')
    return [*out, "</g>", "</svg>"]
