"""Jobs on a cluster that this machine is no part of, through Ray's HTTP interface.

A submitted job is `polymode run --address auto` on the cluster's head; the job file and the code
travel with it.  What they require has to be there, in the Python that comes first in the PATH with
which the head was started.
Source: Ray 2.60, `ray/dashboard/modules/job`.
"""

import http.client
import logging
import os
import re
import secrets
import shlex
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import InputError, brief
from core.storage import files
from pipelines.cluster import connection, deadlines, failures, guard, joined
from pipelines.cluster.code import unpack
from pipelines.store import results

AWAKE_SECONDS = 120  # that a head which has just started may take until it accepts jobs
FOLLOW_SECONDS = 1.0  # between two looks at a log that is followed
ANSWER_SECONDS = 15.0  # that a dashboard has for its first answer
PROGRAM = "from pipelines.cli import main; main()"
JOB, JOB_FILE = "polymode_job", "job.yaml"  # our mark in Ray's list of jobs; the file's name there
# Lines of `run.display` about a step where there is no terminal; names are padded to one width.
SAID = re.compile(
    r"^(?P<step>[a-z0-9_@.-]+) {2,}(?P<state>started|done|hit|failed|not run)\b", re.M
)


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job on a cluster.

    Args:
        id: what Ray calls it.
        name: the job file's.
        state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        began: when, or nothing yet.
        out: its folder for results, there.
        steps: the last line about each step.
        message: the last line that it printed.
    """

    id: str
    name: str
    state: str
    began: str
    out: str
    steps: dict[str, str]
    message: str


def submit(file: Path, settings: Sequence[str], *, address: str, out: Path) -> str:
    """Submit a job to the cluster; returns its ID.

    Args:
        file: the job file; paths in it are the cluster's, and absolute.
        settings: options set over the file's.
        address: of the cluster's dashboard.
        out: absolute folder for results that all its machines share; need not be seen from here.

    Raises:
        InputError: the job is wrong, or the cluster cannot be reached or refuses.
    """
    from pipelines.job.file import parse, written

    document = written(file, settings)
    what = parse(document)
    if not out.is_absolute():
        raise InputError(f"out: expected an absolute path on the cluster, got {brief(str(out))}")
    command = ["python", "-c", PROGRAM, "run", JOB_FILE, "--address", "auto", "--out", str(out)]
    with (
        _client(address) as client,
        guard.temporary(joined.CODE, connection.temporary_folder()) as place,
    ):
        code, folder = place / "code", place / "job"
        code.mkdir()
        folder.mkdir()
        files.write_json(folder / JOB_FILE, document)  # JSON is YAML
        modules = unpack(code)
        for file in filter(Path.is_file, modules):  # Ray takes modules that are folders alone
            file.rename(folder / file.name)
        return _once_awake(
            client.submit_job,
            submission_id=f"{what.name}-{secrets.token_hex(4)}",
            entrypoint=shlex.join(command),
            metadata={JOB: what.name, "out": str(out)},
            runtime_env={
                "working_dir": str(folder),
                "py_modules": [str(path) for path in modules if path.is_dir()],
                "env_vars": {
                    "RAY_JOB_STOP_WAIT_TIME_S": f"{deadlines.JOB:.0f}",
                    **connection.QUIET,
                },
            },
        )


def jobs(address: str) -> list[Submitted]:
    """Our jobs on the cluster, the newest first.

    Raises:
        InputError: it cannot be reached or refuses.
    """
    with _client(address) as client:
        ours = [job for job in client.list_jobs() if JOB in (job.metadata or {})]
        ours.sort(key=lambda job: job.start_time or 0, reverse=True)
        return [_submitted(client, job) for job in ours]


def log(address: str, name: str, step: str = "") -> str:
    """What a job has printed; or one of its steps, whole where its results are seen from here.

    Raises:
        InputError: no such job or step, or the cluster cannot be reached or refuses.
    """
    with _client(address) as client:
        job = _find(client, name)
        printed = client.get_job_logs(job.submission_id)
    if not step:
        return printed
    record = Path(job.metadata["out"], job.metadata[JOB])
    planned = results.read_json(record / "plan.json") or {}
    known = list(planned) or sorted({match["step"] for match in SAID.finditer(printed)})
    if step not in known:
        if not known and not job.status.is_terminal():
            return ""  # it has not planned its steps yet
        raise InputError(
            f"no step {brief(step)} in this job; it has: {', '.join(known) or 'none yet'}"
        )
    whole = record / planned[step]["folder"] / results.LOG if planned else None
    if whole is not None and whole.is_file():
        return whole.read_text(encoding="utf-8", errors="replace")
    lines = printed.splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith(f"{step}  "))


def follow(address: str, name: str, step: str = "") -> Iterator[str]:
    """What `log` gives, piece by piece as it is written, until the job has ended.

    A log that is begun again, as of a step that is tried again, is given from its beginning.

    Raises:
        InputError: as `log`.
    """
    seen = ""
    while True:
        with _client(address) as client:
            ended = _find(client, name).status.is_terminal()
        now = log(address, name, step)  # after the question, so that nothing at the end is missed
        if not now.startswith(seen):
            seen = ""
        if now != seen:
            yield now[len(seen) :]
        if ended:
            return
        seen = now
        time.sleep(FOLLOW_SECONDS)


def stop(address: str, name: str) -> Submitted:
    """Stop a job, once it has written its checkpoints; how it ended.

    Raises:
        InputError: no such job, or the cluster cannot be reached or refuses.
    """
    with _client(address) as client:
        job = _find(client, name)
        client.stop_job(job.submission_id)
        deadline = time.monotonic() + deadlines.STOPPED
        while time.monotonic() < deadline:
            job = client.get_job_info(job.submission_id)
            if job.status.is_terminal():
                break
            time.sleep(0.5)
        return _submitted(client, job)


def _submitted(client: Any, job: Any) -> Submitted:
    printed = client.get_job_logs(job.submission_id)
    began = datetime.fromtimestamp((job.start_time or 0) / 1000, UTC)
    return Submitted(
        id=job.submission_id,
        name=job.metadata[JOB],
        state=str(job.status),
        began=began.isoformat(timespec="seconds") if job.start_time else "",
        out=job.metadata["out"],
        steps={match["step"]: match["state"] for match in SAID.finditer(printed)},
        message=(printed.strip().splitlines() or [job.message or ""])[-1],
    )


def _find(client: Any, name: str) -> Any:
    """The job with that id; of a job file's name, the newest."""
    ours = [job for job in client.list_jobs() if JOB in (job.metadata or {})]
    found = [job for job in ours if name in (job.submission_id, job.metadata[JOB])]
    if not found:
        known = ", ".join(job.submission_id for job in ours) or "none"
        raise InputError(f"no job {brief(name)} on this cluster; it has: {known}")
    return max(found, key=lambda job: job.start_time or 0)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A connection to the cluster's jobs; its refusals become one sentence."""
    from ray.exceptions import RayError

    connection.check_unconnected()
    try:
        from ray.job_submission import JobSubmissionClient

        with connection.environment({**connection.QUIET, **joined.credentials()}):
            for overrides in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
                os.environ.pop(overrides, None)
            connection.heed_environment()
            url = address if "://" in address else f"http://{address}"
            joined.check_listens(re.sub(r"^https?://", "", url).rstrip("/"), "its dashboard")
            _check_answers_http(url)
            logging.disable(logging.INFO)  # each file that is sent would be a line
            yield JobSubmissionClient(url)
    except InputError:
        raise
    except (RayError, RuntimeError, ConnectionError, ImportError) as error:
        raise InputError(f"address: the cluster at {address} {_why(error)}") from error
    finally:
        logging.disable(logging.NOTSET)


def _check_answers_http(url: str) -> None:
    """Refuse an address whose listener says nothing: Ray's client would wait for ever.

    Raises:
        InputError: no answer to a first question, of whatever kind.
    """
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/api/version", timeout=ANSWER_SECONDS).close()
    except (OSError, http.client.HTTPException) as error:  # a refusal without our token too
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise InputError(
                f"address: what listens at {url} did not answer within {ANSWER_SECONDS:.0f} "
                "seconds; it has to be that of its dashboard"
            ) from error


def _once_awake(submit: Callable[..., str], **job: Any) -> str:
    """Submit, trying again while a cluster that has just started has no agent for jobs yet."""
    end = time.monotonic() + AWAKE_SECONDS
    while True:
        try:
            return submit(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


def _why(error: Exception) -> str:
    said = failures.without_colours(str(error))
    if "uthenticat" in said or "nvalid token" in said or "403" in said:
        return "refuses this token; copy the one that its head was started with"
    if isinstance(error, ImportError) or "ray[default]" in said:
        return "needs more of Ray on this side: pip install 'polymode[cluster]'"
    first = (said.strip().splitlines() or [type(error).__name__])[0]
    return f"answered: {first}"


def table(found: Sequence[Submitted]) -> list[str]:
    """One line a job, and one for each of its steps."""
    lines: list[str] = []
    for job in found:
        lines.append(f"{job.id}  {job.state.lower()}  {job.began}  {job.out}".rstrip())
        if job.state == "FAILED" and job.message:
            lines.append(f"    {job.message}")
        lines += [f"    {step}  {state}" for step, state in job.steps.items()]
    return lines
