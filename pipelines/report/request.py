"""Request and result of `report`: one page about other steps."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """One page about other steps.

    Args:
        title: the page's heading; by default, what was evaluated.
    """

    title: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """A page and its facts.

    Args:
        report: one self-contained HTML file.
        data: the same facts as JSON.
    """

    report: Path
    data: Path
