"""A private Ray that does not start: tried again for longer, then done without, or one sentence."""

import os
import tempfile
from pathlib import Path

import pytest
import typer
from toy_jobs import STEPS, parse
from toy_verbs import TOYS

from core.errors import InputError
from pipelines.cluster import connection, private
from pipelines.cluster.private import NotStarted, private_ray
from pipelines.commands.invocation import carry_out
from pipelines.job.verbs import VERBS

BUSY = "The current node timed out during startup. ... or the GCS has become overloaded."


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """What each start of Ray does: raise, or nothing.  None is really started."""
    due: list[Exception | None] = []

    def start(folder, cpus, gpus):
        error = due.pop(0)
        limits.append(dict(os.environ)["RAY_gcs_server_port_wait_time_s"])
        folders.append(folder)
        if error:
            raise error

    limits, folders = [], []
    monkeypatch.setattr(private, "_connect_here", start)
    monkeypatch.setattr(private, "check_unconnected", lambda: None)
    monkeypatch.setattr(private, "disconnect", lambda: None)  # that of other tests stays
    due_and = due, limits, folders
    yield due_and
    assert not due
    assert not any(folder.exists() for folder in folders)


def test_a_second_start_has_more_time_and_a_folder_of_its_own(starts, tmp_path):
    due, limits, folders = starts
    due += [NotStarted(BUSY), None]
    told: list[str] = []
    with private_ray(tmp_path, cpus=1, gpus=0, tell=told.append):
        assert [folder.exists() for folder in folders] == [False, True]
    assert limits == ["30", "120"]
    assert len(told) == 1
    assert told[0].startswith("Ray did not start within 30 seconds (The current node timed out")
    assert told[0].endswith("trying again for up to 120")


def test_what_is_no_matter_of_time_is_not_tried_again(starts, tmp_path):
    starts[0].append(ValueError("num_cpus must be positive"))
    with pytest.raises(ValueError, match="positive"), private_ray(tmp_path, cpus=1, gpus=0):
        pass


def test_ray_says_that_its_node_timed_out_by_a_bare_exception(monkeypatch, tmp_path):
    def connect(*path, **settings):
        raise Exception(BUSY)

    monkeypatch.setattr(private, "connect", connect)
    with pytest.raises(NotStarted, match="timed out"):
        private._connect_here(tmp_path, 1, 0)


@pytest.mark.parametrize("error", [NotStarted(BUSY), RuntimeError("no port"), TimeoutError("slow")])
def test_a_job_is_done_without_ray_by_option_or_refused_in_a_sentence(
    starts, tmp_path, monkeypatch, capfd, error
):
    for name, verb in TOYS.items():
        monkeypatch.setitem(VERBS, name, verb)
    job = parse({"name": "toys", "steps": {"a": STEPS["a"], "b": STEPS["b"]}})
    starts[0].extend([error, error])
    with pytest.raises(typer.Exit) as ended:
        carry_out(job, tmp_path / "runs")
    assert ended.value.exit_code == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Ray did not start within 120 seconds (")
    assert last.endswith("try again later, or add --local to do without Ray")
    starts[0].extend([error, error])
    carry_out(job, tmp_path / "runs", or_local=True)
    said = capfd.readouterr().err
    assert "one after another in this process instead" in said
    assert len(list(tmp_path.glob("runs/store/*/MANIFEST.json"))) == 2


def test_an_answer_of_the_node_is_waited_for(monkeypatch):
    from ray._private import services

    answers = [RuntimeError("not there"), RuntimeError("not there"), {"port": 1}]

    def get_node(*place):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    with connection.patient(30):
        assert services.get_node("address", "node") == {"port": 1}
    assert services.get_node is get_node
    answers[:] = [RuntimeError("not there")]
    with connection.patient(0), pytest.raises(RuntimeError, match="not there"):
        services.get_node("address", "node")


@pytest.mark.parametrize(
    "temporary", ["\u00e9", "relative", "there/is/no/room/for/a/socket/in/here"]
)
def test_ray_has_a_folder_whose_path_it_takes(tmp_path, monkeypatch, temporary):
    """The paths of its sockets are absolute, in ASCII, and of at most 107 letters."""
    place = tmp_path / "a place too long for any socket, whatever the folder for temporary files"
    place.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: temporary)
    assert private._suitable(place) == Path("/tmp")
    assert connection.temporary_folder() in (Path("/tmp"), Path(temporary).absolute())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="Ray needs a folder for its sockets"):
        private._suitable(place)


def test_results_in_a_folder_not_in_ascii_leave_rays_files_elsewhere(tmp_path):
    with tempfile.TemporaryDirectory(prefix="\u00e9", dir="/tmp") as short:
        assert private._suitable(Path(short)) in (Path(tempfile.gettempdir()), Path("/tmp"))
