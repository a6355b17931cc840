"""The commands `polymode verify` and `polymode gc`: care of stored results."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from core.commands import Settings
from core.errors import cut_lines
from pipelines.commands.jobs import planned
from pipelines.commands.options import Out


def verify_results(
    job: Annotated[
        Path | None,
        typer.Argument(metavar="JOB", help="Only results of this YAML file of steps."),
    ] = None,
    out: Out = Path("runs"),
    settings: Settings = None,
) -> None:
    """Compare every byte of stored results with their manifests; print the damaged ones.

    Ends with 1 if there are any, or if none of JOB's results are there.  `run` makes those again.
    Files that a result does not list, and results that cannot be read now, are printed too.

    Example: polymode verify pipelines/jobs/demo.yaml
    """
    from pipelines.store import upkeep

    folders = upkeep.result_folders(out / "store")
    missing = 0
    if job is not None:
        wanted = {p.folder.name for p in planned(job, out, settings, verify=False)}
        folders = [folder for folder in folders if folder.name in wanted]
        missing = len(wanted) - len(folders)
    counts: dict[str, int] = {}
    for folder in folders:
        found = upkeep.verify(folder)
        state = "with other files" if found.unlisted else found.state
        counts[state] = counts.get(state, 0) + 1
        if found.state in ("damaged", "unreadable"):
            print(cut_lines(f"{os.path.relpath(folder)}  {found.what}"))
        for name in found.unlisted:
            print(cut_lines(f"{os.path.relpath(folder)}  {name} is not part of this result"))
    if missing:
        counts["not there"] = missing
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), reverse=True))
    print(summary or "no results", file=sys.stderr)
    if not counts.keys() <= {"whole", "unfinished", "not there"} or (missing and not folders):
        raise typer.Exit(1)


def remove_unused_results(
    out: Out = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; otherwise only list.")] = False,
) -> None:
    """List the results that no job's newest record in OUT names; remove them with --yes.

    A record, OUT/NAME, is what the newest `run` of a job left; remove it too if the job is not
    wanted any more.  Nothing is removed while a run uses the store.

    Example: polymode gc --yes
    """
    from pipelines.job.resources import size_in_words
    from pipelines.store import upkeep

    total = 0
    for found in upkeep.remove_unused(out) if yes else upkeep.unused(out):
        size = size_in_words(found.size)
        print(cut_lines(f"{os.path.relpath(found.path)}  {size}  {found.why}"))
        total += found.size
    summary = "removed" if yes else "could be removed with --yes"
    print(f"{size_in_words(total)} {summary}", file=sys.stderr)
