"""The command `polymode`: the core's commands, and those for jobs of several steps."""

from typing import NoReturn

from core.cli import BUILT_IN, add_plugins, app
from core.commands import run_app
from pipelines.commands import apply, cluster, doctor, jobs, store, sweep
from pipelines.job.verbs import PIPELINES

for name, command in {
    "plan": jobs.plan_job,
    "run": jobs.run_job,
    "sweep": sweep.sweep_options,
    "apply": apply.apply_to_folder,
    "verify": store.verify_results,
    "gc": store.remove_unused_results,
    "submit": cluster.submit_job,
    "status": cluster.show_submitted,
    "logs": cluster.show_log,
    "stop": cluster.stop_submitted,
    "doctor": doctor.show_findings,
}.items():
    app.command(name)(command)

BUILT_IN.update({verb.name: verb for verb in PIPELINES})


def main() -> NoReturn:
    """The console script."""
    add_plugins(app)
    run_app(app)
