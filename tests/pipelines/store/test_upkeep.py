"""What is removed from a store is what nobody names; damage is found; names lead nowhere else."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import call
from made_results import IDENTITY, KEY, made
from toy_jobs import POLYMODE, STEPS, toy
from toy_verbs import polymode

from core.errors import InputError
from core.storage import files
from pipelines.store import results, upkeep


def command(tmp_path, *words):
    return call(polymode, *words, cwd=tmp_path)


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory):
    """A folder in which a job was run twice, with another number the second time."""
    place, path = tmp_path_factory.mktemp("ran"), str(Path(__file__).parents[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        assert toy(place, "run", "--local").returncode == 0
        again = toy(place, "run", "--local", "--set", "steps.b.request.number=5")
        assert again.returncode == 0
    return place


@pytest.fixture
def ran(ran_once, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(ran_once, tmp_path / "ran"))


def stored(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "runs" / "store").iterdir() if path.name[0] != "."}


# --- gc --------------------------------------------------------------------------------------


def test_only_what_the_newest_record_does_not_name_is_removed(ran):
    before = stored(ran)
    plan = json.loads((ran / "runs" / "toys" / "plan.json").read_text())
    named = {Path(step["folder"]).name for step in plan.values()}
    assert (len(before), len(named)) == (8, 5)  # b, sum and page were made twice
    listed = command(ran, "gc")
    assert (listed.returncode, stored(ran)) == (0, before)  # it only lists
    lines = [line.split("  ") for line in listed.stdout.splitlines()]
    assert {Path(name).name for name, _, _ in lines} == before - named
    size = sum(
        path.stat().st_size
        for name in before - named
        for path in (ran / "runs" / "store" / name).rglob("*")
        if path.is_file()
    )
    assert f"{size / 1024:.4g} KiB could be removed" in listed.stderr
    removed = command(ran, "gc", "--yes")
    assert (removed.returncode, removed.stdout) == (0, listed.stdout)
    assert stored(ran) == named
    assert (
        "nothing to do" in toy(ran, "run", "--set", "steps.b.request.number=5").stderr
    )  # all that the record names is whole
    assert command(ran, "gc", "--yes").stdout == ""


def test_what_another_record_names_stays(ran):
    assert toy(ran, "run", "--local", name="other").returncode == 0
    assert command(ran, "gc", "--yes").stdout == ""
    shutil.rmtree(ran / "runs" / "other")
    assert command(ran, "gc", "--yes").stdout.count("\n") == 3


def test_starts_and_what_was_set_aside_go_too_and_what_is_not_ours_stays(ran):
    root = ran / "runs" / "store"
    started = results.folder_of(root, "new", KEY)
    results.begin(started, KEY, IDENTITY, "new")
    aside = results.set_aside(made(root))
    half = root / ".del-a-0000-12ab"
    half.mkdir()
    (root / "Mine").mkdir()
    (root / "note.txt").write_text("mine")
    target = ran / "elsewhere"
    target.mkdir()
    (root / f"link-{'0' * 16}").symlink_to(target)
    why = {p.path.name: p.why for p in upkeep.unused(ran / "runs")}
    assert why[started.name] == "unfinished"
    assert why[aside.name] == "damaged"
    assert why[half.name] == "half removed"
    assert list(why.values()).count("unused") == 3
    assert len(list(upkeep.remove_unused(ran / "runs"))) == len(why) == 6
    assert not started.exists()
    assert not aside.exists()
    assert not half.exists()
    assert {"Mine", "note.txt", f"link-{'0' * 16}"} <= stored(ran)
    assert target.is_dir()


def test_what_is_being_made_is_left_alone(ran):
    (first, *_) = upkeep.unused(ran / "runs")
    with results.locked(first.path, lambda: None):
        gone = [found.path for found in upkeep.remove_unused(ran / "runs")]
    assert first.path.exists()
    assert len(gone) == 2
    assert [found.path for found in upkeep.remove_unused(ran / "runs")] == [first.path]


def test_nothing_is_removed_while_a_run_goes_on(ran):
    slow = {"name": "slow", "steps": {"z": {"run": "make", "request": {"seconds": 30}}}}
    (ran / "slow.yaml").write_text(json.dumps(slow))
    words = [*POLYMODE, "run", "slow.yaml", "--local"]
    run = subprocess.Popen(words, cwd=ran, stderr=subprocess.DEVNULL)
    try:
        while not list(ran.glob("runs/store/z-*/events.jsonl")):
            assert run.poll() is None
            time.sleep(0.05)
        before = stored(ran)
        refused = command(ran, "gc", "--yes")
        assert refused.returncode == 2
        assert "a run is using it" in refused.stderr
        assert stored(ran) == before
    finally:
        run.kill()
        run.wait(30)
    assert command(ran, "gc", "--yes").returncode == 0  # its lock went with it


def test_no_run_begins_while_results_are_removed(ran):
    with results.removing(ran / "runs" / "store"):
        result = toy(ran, "run", "--local")
    assert result.returncode == 2
    assert "unused results are being removed" in result.stderr


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": {"folder": "../store"}}', '{"a": {"folder": 3}}']
)
def test_a_record_that_cannot_be_read_stops_it(ran, text):
    (ran / "runs" / "toys" / "plan.json").write_text(text)
    before = stored(ran)
    refused = command(ran, "gc", "--yes")
    assert refused.returncode == 2
    assert "what it uses is not known" in refused.stderr
    assert stored(ran) == before


def test_killed_between_any_two_removals_leaves_whole_results_only(tmp_path):
    """Dies before the n-th rename, unlink and rmdir, for every n."""
    deaths, status = 0, 9
    while status:
        out = tmp_path / str(deaths)
        folder = made(out / "store")
        child = os.fork()
        if child == 0:
            _remove_and_die(out, deaths)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        if folder.exists():
            assert results.inspect(folder, KEY, verify=True).state == "whole"
        list(upkeep.remove_unused(out))
        assert [path.name for path in (out / "store").iterdir()] == [".locks"]
        deaths += 1
    assert deaths > 5


def _remove_and_die(out: Path, left: int) -> None:
    def dying(call):
        def run(*arguments, **named):
            nonlocal left
            left -= 1
            return call(*arguments, **named) if left >= 0 else os._exit(9)

        return run

    try:
        for name in ("rename", "unlink", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        shutil._use_fd_functions = True  # pyright: ignore
        list(upkeep.remove_unused(out))
        os._exit(0)
    finally:
        os._exit(1)


# --- verify ----------------------------------------------------------------------------------


def test_damage_is_named_and_only_damage(ran):
    whole = command(ran, "verify")
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "", "8 whole\n")
    (at, other) = sorted((ran / "runs" / "store").glob("b-*"))
    (at / "made.txt").write_bytes(bytes(len((at / "made.txt").read_bytes())))  # the same size
    (other / "MANIFEST.json").unlink()
    damaged = command(ran, "verify")
    assert damaged.returncode == 1
    assert damaged.stdout == f"runs/store/{at.name}  made.txt has changed\n"
    assert damaged.stderr == "6 whole, 1 unfinished, 1 damaged\n"


def test_a_job_limits_what_is_compared(ran):
    (ran / "one.yaml").write_text(json.dumps({"name": "one", "steps": {"a": STEPS["a"]}}))
    (at,) = (ran / "runs" / "store").glob("other-*")
    (at / "made.txt").write_text("x")
    assert command(ran, "verify", "one.yaml").stderr == "1 whole\n"
    assert command(ran, "verify").returncode == 1


def test_a_result_under_the_name_of_another_is_damaged(ran):
    (at, other) = sorted((ran / "runs" / "store").glob("b-*"))
    shutil.rmtree(other)
    at.rename(other)
    assert upkeep.verify(other).what == "MANIFEST.json belongs to another key"


def test_no_store_is_one_sentence(tmp_path):
    for words in (["verify"], ["gc"], ["gc", "--yes"]):
        result = command(tmp_path, *words)
        assert result.returncode == 2
        assert result.stderr.startswith("error: runs/store: no store there")
    assert not (tmp_path / "runs").exists()


def test_code_that_changed_since_is_told_of_a_hit(ran):
    (at,) = (ran / "runs" / "store").glob("a-*")
    request = json.loads((at / "request.json").read_text())
    assert request["code"].keys() == {"toy_verbs"}
    files.write_json(at / "request.json", {**request, "code": {"toy_verbs": "0" * 16}})
    line = command(ran, "plan", "job.yaml").stdout.splitlines()[0]
    assert line.split()[:2] == ["a", "hit"]
    assert line.endswith("toy_verbs changed since; raise the part's version if results do")


# --- clocks, copies, locks -------------------------------------------------------------------


def test_times_and_places_are_no_reason_to_run(ran):
    for at, folders, names in os.walk(ran / "runs" / "store"):
        for name in [*folders, *names]:
            os.utime(Path(at, name), (0, 2**32))
    number = ["--set", "steps.b.request.number=5"]
    assert "nothing to do" in toy(ran, "run", *number).stderr
    shutil.copytree(ran / "runs", ran / "copy" / "of", copy_function=shutil.copy)
    copied = toy(ran, "run", *number, "--out", "copy/of")
    assert "nothing to do" in copied.stderr
    shutil.rmtree(ran / "runs")
    assert "nothing to do" in toy(ran, "run", *number, "--out", "copy/of").stderr


def test_lock_files_that_were_left_hold_nobody_up(ran):
    locks = ran / "runs" / "store" / ".locks"
    for folder in (ran / "runs" / "store").glob("[ab]-*"):
        (locks / folder.name).write_text("4194304 somewhere\n")  # as a dead owner might leave it
        shutil.rmtree(folder)
    began = time.monotonic()
    assert toy(ran, "run", "--local").returncode == 0
    assert time.monotonic() - began < 30


# --- names that lead elsewhere ---------------------------------------------------------------

OUTSIDE = [
    "..", "../x", "a/../../x", "a/..", "./..", "deep/../../secret", "/etc/passwd", "//etc/passwd",
    "///", "/", "", ".", "./", "a/b/../../..", "..//x", "x/../../store", "../secret/",
    "\0", "a\0b", "made.txt\0.png", "a\nb", "\r", "a\tb", "\x1b[31mred", "\x7f", "a\x85b",
    "\udcff", "photo\u202egpj.exe", "\u2066x\u2069", "\u200ex", "\u061cx",
    "out", "out/secret.txt", "out/../x", "circle", "circle/x", "up/x", "absolute",
    "x" * 256, "/".join(["x" * 200] * 30),
]  # fmt: skip
INSIDE = [
    "made.txt", "deep/values.bin", "./made.txt", "~", "~root/x", "%2e%2e/x", "..%2fx", "...", "..x",
    "CON", "nul.txt", "a:b", "C:\\x", "..\\x", "-rf", "$(id)", "a b", "ä/ö", "x" * 255, "own",
    "hard",
]  # fmt: skip


@pytest.fixture
def full_of_links(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "result"
    (folder / "deep").mkdir(parents=True)
    (folder / "made.txt").write_text("1")
    (folder / "deep" / "values.bin").write_text("2")
    (folder / "out").symlink_to("..")
    (folder / "up").symlink_to(tmp_path)
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to("circle")
    (folder / "own").symlink_to("made.txt")
    (folder / "hard").hardlink_to(folder / "made.txt")
    return folder


def test_forty_names_lead_nowhere_else(full_of_links):
    assert len(OUTSIDE) >= 40
    for name in OUTSIDE:
        with pytest.raises(InputError):
            files.inside(full_of_links, name)


@pytest.mark.parametrize("name", INSIDE)
def test_odd_names_below_the_folder_are_names(full_of_links, name):
    assert files.inside(full_of_links, name) == full_of_links / name


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_manifest_result_or_record_leads_elsewhere(tmp_path, name):
    folder = made(tmp_path / "store")
    (folder / "out").symlink_to("..")
    (folder / "up").symlink_to(tmp_path)
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to("circle")
    files.write_json(folder / "result.json", {"made": name})
    if name != ".":  # the whole folder
        with pytest.raises(InputError):
            results.result_path(folder, "made")
    manifest = results.read_json(folder / "MANIFEST.json")
    assert manifest
    files.write_json(
        folder / "MANIFEST.json", {**manifest, "files": {name: [0, "x"], **manifest["files"]}}
    )
    assert results.inspect(folder, KEY).what == f"{name} is no file of this result"
    (tmp_path / "toys").mkdir()
    files.write_json(tmp_path / "toys" / "plan.json", {"a": {"folder": name}})
    with pytest.raises(InputError, match="what it uses is not known"):
        upkeep.named(tmp_path)


def test_a_result_may_be_its_whole_folder(tmp_path):
    folder = made(tmp_path)
    files.write_json(folder / "result.json", {"samples": "."})
    assert results.result_path(folder, "samples") == folder


def test_a_result_with_a_link_out_of_it_is_none(tmp_path):
    folder = results.folder_of(tmp_path, "a", KEY)
    results.begin(folder, KEY, IDENTITY, "a")
    (folder / "password").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="leads out of"):
        results.commit(folder, KEY)
    assert results.inspect(folder, KEY).state == "unfinished"


def test_results_of_a_job_that_are_not_there_are_counted(ran):
    changed = ["--set", "steps.a.request.number=77"]
    ended = command(ran, "verify", "job.yaml", *changed)
    assert ended.returncode == 0
    assert ended.stderr == "1 whole, 4 not there\n"  # all but `b` need `a`
    alone = ran / "alone.yaml"
    alone.write_text(json.dumps({"name": "alone", "steps": {"a": STEPS["a"]}}))
    ended = command(ran, "verify", alone, *changed)
    assert (ended.returncode, ended.stderr) == (1, "1 not there\n")


def test_files_that_a_result_does_not_list_are_named(ran):
    (a,) = (ran / "runs" / "store").glob("a-*")
    (a / "step-99999999").mkdir()
    (a / "step-99999999" / "state.json").write_text("{}")
    ended = command(ran, "verify")
    assert ended.returncode == 1
    name = os.path.relpath(a, ran)
    assert ended.stdout == f"{name}  step-99999999/state.json is not part of this result\n"
    assert "1 with other files" in ended.stderr
    ended = command(ran, "run", "job.yaml", "--local", "--set", "steps.sum.request.plus=2")
    assert ended.returncode == 2
    assert "holds step-99999999/state.json, which the step did not make" in ended.stderr
    assert a.exists()


def test_deep_json_anywhere_ends_in_one_sentence(ran):
    (a,) = (ran / "runs" / "store").glob("a-*")
    (a / "MANIFEST.json").write_text("[" * 100_000)
    ended = command(ran, "verify")
    assert ended.returncode == 1
    assert "MANIFEST.json is not readable: nested deeper than" in ended.stdout
    (ran / "runs" / "toys" / "plan.json").write_text("[" * 100_000)
    ended = command(ran, "gc")
    assert ended.returncode == 2
    assert "plan.json: cannot be read" in ended.stderr


def without_passing_permissions(tmp_path, *words):
    """The command in a process that obeys permissions even if it is root's."""
    obeying = "import privileges; privileges.drop(); import toy_verbs; toy_verbs.polymode()"
    return subprocess.run(
        [sys.executable, "-c", obeying, *map(str, words)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


@pytest.mark.slow
def test_a_manifest_that_cannot_be_read_now_costs_no_result(ran):
    (a,) = (ran / "runs" / "store").glob("a-*")
    (a / "MANIFEST.json").chmod(0)
    try:
        for words in (["plan", "job.yaml"], ["run", "job.yaml", "--local"]):
            ended = without_passing_permissions(ran, *words)
            assert ended.returncode == 2
            assert f"{a}: MANIFEST.json cannot be read now: Permission denied" in ended.stderr
        ended = without_passing_permissions(ran, "verify")
        assert ended.returncode == 1
        assert "MANIFEST.json cannot be read now" in ended.stdout
    finally:
        (a / "MANIFEST.json").chmod(0o644)
    assert not list((ran / "runs" / "store").glob("damaged-*"))
    assert command(ran, "plan", "job.yaml").stdout.count(" hit ") == len(STEPS)


@pytest.mark.slow
def test_hits_of_a_read_only_store_print_where_the_report_is(ran):
    runs = [ran / "runs", *(ran / "runs").rglob("*")]
    modes = {path: path.stat().st_mode for path in runs}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        ended = without_passing_permissions(ran, "run", "job.yaml", "--local")
        assert ended.returncode == 0
        assert ended.stdout.rstrip().endswith("report.html")
        other = ["run", "job.yaml", "--local", "--set", "steps.a.request.number=8"]
        ended = without_passing_permissions(ran, *other)
        assert ended.returncode == 2
        assert "cannot be written" in ended.stderr
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
