"""The command `polymode`: the core's commands, and those for jobs of several steps."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from core.cli import BUILT_IN, Settings, add_plugins, app, run_app
from core.parts.registry import Verb
from pipelines import apply_command, cluster_commands, sweep_command
from pipelines.arguments import Address, Cpus, JobFile, Out
from pipelines.verbs import VERBS

if TYPE_CHECKING:
    from pipelines.plan import Planned

Verify = Annotated[
    bool, typer.Option("--verify", help="Compare stored files' contents too, not only their sizes.")
]


def plan_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    cpus: Cpus = None,
    address: Address = None,
    verify: Verify = False,
) -> None:
    """Show what `run` would do, and why: one line for each step.  Starts nothing.

    A step whose result is there already, whole, is a hit.  Any other runs, for the reason given.

    Example: polymode plan pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    from pipelines import invocation
    from pipelines.joining import joined
    from pipelines.resources import check_fits

    planned = _plan(job, out, settings, verify)
    for line in _table(planned):
        print(line)
    invocation.check_call(address, cpus=cpus)
    if address is None:
        invocation.check_fits_here(planned, cpus)
        return
    with joined(address) as machines:
        check_fits(planned, machines, where="the cluster")


def run_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    local: Annotated[
        bool, typer.Option("--local", help="One step after another in this process, without Ray.")
    ] = False,
    cpus: Cpus = None,
    address: Address = None,
) -> None:
    """Run the steps of a job that are not done yet, on a private Ray, and print where they report.

    Results are kept in OUT/store and found again by what they were made from, so the same command
    after a stop goes on where it stopped, and a changed option runs only what depends on it.

    Example: polymode run pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    from pipelines import invocation
    from pipelines.job import read

    invocation.check_call(address, cpus=cpus, local=local)
    what = read(job, settings or [])
    invocation.carry_out(what, out, local=local, cpus=cpus, address=address)


def verify_results(
    job: Annotated[
        Path | None,
        typer.Argument(metavar="[JOB]", help="Only results of this YAML file of steps."),
    ] = None,
    out: Out = Path("runs"),
    settings: Settings = None,
) -> None:
    """Compare every byte of stored results with their manifests; print the damaged ones.

    Ends with 1 if there are any.  `run` makes those again.

    Example: polymode verify pipelines/jobs/demo.yaml
    """
    from pipelines import upkeep

    folders = upkeep.results(out / "store")
    if job is not None:
        wanted = {p.folder.name for p in _plan(job, out, settings, verify=False)}
        folders = [folder for folder in folders if folder.name in wanted]
    counts: dict[str, int] = {}
    for folder in folders:
        found = upkeep.verify(folder)
        counts[found.state] = counts.get(found.state, 0) + 1
        if found.state == "damaged":
            print(f"{os.path.relpath(folder)}  {found.what}")
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), reverse=True))
    print(said or "no results", file=sys.stderr)
    if "damaged" in counts:
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
    from pipelines import upkeep
    from pipelines.resources import size_in_words

    total = 0
    for found in upkeep.remove_unused(out) if yes else upkeep.unused(out):
        print(f"{os.path.relpath(found.path)}  {size_in_words(found.size)}  {found.why}")
        total += found.size
    said = "removed" if yes else "could be removed with --yes"
    print(f"{size_in_words(total)} {said}", file=sys.stderr)


def _plan(
    job: Path, out: Path, settings: Sequence[str] | None, verify: bool
) -> "tuple[Planned, ...]":
    from pipelines.job import read
    from pipelines.plan import plan

    return plan(read(job, settings or []), out.absolute() / "store", verify=verify)


def _table(planned: "Sequence[Planned]") -> list[str]:
    from pipelines.resources import size_in_words

    rows = [
        (
            p.step.name,
            p.state,
            p.key[:12],
            f"{p.step.cpus} cpu"
            + (f" {p.step.gpus:g} gpu" if p.step.gpus else "")
            + (f" {size_in_words(p.step.memory)}" if p.step.memory else ""),
            p.why or p.note,
        )
        for p in planned
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(4)), row[4]]).rstrip() for row in rows
    ]


def doctor(
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what this machine has and lacks, and what to do; status 1 if something needed is missing.

    Example: polymode doctor --json
    """
    from pipelines.doctor import examine, table, usable

    findings = examine(out)
    if as_json:
        import json
        from dataclasses import asdict

        whole = {"usable": usable(findings), "findings": [asdict(f) for f in findings]}
        print(json.dumps(whole, indent=1))
    else:
        print("\n".join(table(findings)))
    if not usable(findings):
        raise typer.Exit(1)


for name, command in {
    "plan": plan_job,
    "run": run_job,
    "sweep": sweep_command.sweep_options,
    "apply": apply_command.apply_to_folder,
    "verify": verify_results,
    "gc": remove_unused_results,
    "submit": cluster_commands.submit_job,
    "status": cluster_commands.show_submitted,
    "logs": cluster_commands.show_log,
    "stop": cluster_commands.stop_submitted,
    "doctor": doctor,
}.items():
    app.command(name)(command)


for name, verb in VERBS.items():
    BUILT_IN[name] = Verb(
        name=name,
        request=f"{verb.request.__module__}:{verb.request.__qualname__}",
        result=f"{verb.result.__module__}:{verb.result.__qualname__}",
        target=verb.target,
        summary=verb.summary,
        folders=verb.folders,
    )


def main() -> NoReturn:
    """The console script."""
    add_plugins(app)
    run_app(app)
