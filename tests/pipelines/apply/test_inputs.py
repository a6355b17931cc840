"""Inputs of several files: folders as one input, files read beside one, results beside one."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

from core.errors import InputError
from core.parts.registry import Plugin, Registry, Spec, predictor
from core.request import Machine, Note
from core.testing.contract import check_part
from pipelines.apply import batch
from pipelines.apply.batch import apply
from pipelines.apply.listing import find, prepared
from pipelines.apply.request import ApplyRequest


def ending_of(folder: Path, source: Path) -> Path | None:
    file = folder / source.name
    return file if file.is_file() else None


class Join:
    """The texts of a folder or file, with a count beside them; ``.part`` files are slices.

    Args:
        count: whether it is written.
        endings: a folder of texts that follow those of the inputs of their names.
        busy: somebody else writes to an ending when it has been read.
    """

    suffixes = (".part", ".txt.up")
    folders = (".part",)
    reads_by_option: ClassVar = {"endings": ending_of}

    def __init__(
        self,
        machine,
        checkpoint,
        *,
        count: bool = True,
        endings: Path | None = None,
        busy: bool = False,
    ) -> None:
        self.count, self.endings, self.busy = count, endings, busy

    @staticmethod
    def result_name(name):
        return f"{name}.joined"

    @staticmethod
    def beside(name):
        return (f"{name}.count", f"{name}.never")

    @staticmethod
    def reads(source):
        if source.is_dir():
            return tuple(sorted(source.glob("*.part")))
        note = source.with_suffix(".part")
        return (source, note) if note.is_file() and note != source else (source,)

    def __call__(self, source, target):
        texts = [path.read_text() for path in self.reads(source)]
        if "raise" in texts:
            raise RuntimeError(f"it broke at {source} and {target}")
        if "" in texts:
            raise InputError(f"{source}: a part is empty")
        if self.endings and (ending := ending_of(self.endings, source)):
            texts.append(ending.read_text())
            if self.busy:
                ending.write_text("changed")
        target.write_text("".join(texts))
        if self.count:
            target.with_name(f"{target.name}.count").write_text(str(len(texts)))


def registry():
    part = predictor("join", f"{__name__}:Join", "Joined")
    return Registry([Plugin("toy", "Toys", (part,))])


@pytest.fixture
def place(tmp_path):
    (tmp_path / "word").write_text("")
    for name, text in {
        "alone.part": "z", "p/a.part": "a", "p/b.part": "b", "p/other.md": "", "q/in/c.part": "c",
        "t.txt.up": "up", "t.txt.part": "!",
    }.items():  # fmt: skip
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(place, **options):
    request = ApplyRequest(
        predictor=Spec("toy/join", options), checkpoint=place / "word", folder=place / "files"
    )
    machine = Machine(threads=1)
    with prepared(request, place / "out", machine=machine, registry=registry()) as work:
        return work.todo, batch.finish(work, batch.here)


def written(place):
    at = place / "out" / "results"
    return {p.relative_to(at).as_posix(): p.read_text() for p in at.rglob("*") if p.is_file()}


def test_the_toy_keeps_the_contract():
    check_part(registry(), "predictor", "toy/join")


def test_a_folder_of_slices_is_one_input_and_what_is_read_with_a_file_none(place):
    """In the user's folder itself a slice is an input of its own."""
    names, refused, unknown = find(place / "files", Join, {})
    assert names == ["alone.part", "p", "q/in", "t.txt.up"]
    assert not refused
    assert not {"t.txt.part", "q/in/c.part"} & set(unknown)


def test_results_lie_with_what_belongs_to_them(place):
    _, result = run(place)
    assert (result.done, result.bad, result.failed) == (4, 0, 0)
    assert written(place) == {
        "alone.part.joined": "z", "alone.part.joined.count": "1",
        "p.joined": "ab", "p.joined.count": "2",
        "q/in.joined": "c", "q/in.joined.count": "1",
        "t.txt.up.joined": "up!", "t.txt.up.joined.count": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda at: (at / "files/p/b.part").write_text("B"), ["p"]),
        (lambda at: (at / "files/p/c.part").write_text("c"), ["p"]),
        (lambda at: (at / "files/t.txt.part").write_text("?"), ["t.txt.up"]),
        (lambda at: (at / "out/results/q/in.joined.count").unlink(), ["q/in"]),
        (lambda at: (at / "out/results/q/in.joined.count").write_text("7"), ["q/in"]),
        (lambda at: (at / "files/p/other.md").write_text("not read"), []),
    ],
    ids=["slice", "more", "beside", "lost", "other", "unread"],
)
def test_an_input_is_done_again_when_any_file_of_it_changes(place, change, again):
    run(place)
    change(place)
    todo, _ = run(place)
    assert list(todo) == again


@pytest.fixture
def endings(place):
    """Inside the user's folder, and yet none of them an input."""
    folder = place / "files" / "endings"
    folder.mkdir()
    for name in ("p", "t.txt.up"):
        (folder / name).write_text(name)
    return folder


def test_a_file_that_an_option_names_counts_for_its_own_input(place, endings):
    todo, _ = run(place, endings=endings)
    assert sorted(todo) == ["alone.part", "p", "q/in", "t.txt.up"]
    assert written(place)["p.joined"] == "abp"
    (endings / "p").write_text("P")
    assert list(run(place, endings=endings)[0]) == ["p"]
    assert written(place)["p.joined"] == "abP"
    (endings / "in").write_text("new")
    assert list(run(place, endings=endings)[0]) == ["q/in"]
    assert list(run(place, endings=endings)[0]) == []


def test_a_file_that_an_option_names_does_not_change_unnoticed(place, endings):
    _, result = run(place, endings=endings, busy=True)
    assert (result.done, result.failed) == (2, 2)
    assert set(written(place)) == {
        "alone.part.joined", "alone.part.joined.count", "q/in.joined", "q/in.joined.count"
    }  # fmt: skip
    lines = (place / "out" / "files.jsonl").read_text().splitlines()
    causes = {record["cause"] for record in map(json.loads, lines) if record["state"] == "failed"}
    assert causes == {"it changed while it was read"}


def test_what_an_earlier_call_wrote_beside_a_result_does_not_stay(place):
    run(place)
    run(place, count=False)
    assert not [name for name in written(place) if name.endswith(".count")]


def test_names_that_would_be_written_twice_are_refused(place):
    (place / "files" / "p.joined.count.part").write_text("")
    Clash = type("Clash", (Join,), {"result_name": staticmethod(lambda n: n.removesuffix(".part"))})
    globals()["Clash"] = Clash
    part = predictor("clash", f"{__name__}:Clash", "Joined")
    request = ApplyRequest(
        predictor=Spec("toy/clash"), checkpoint=place / "word", folder=place / "files"
    )
    (place / "files" / "p.count.part").write_text("x")
    with (
        pytest.raises(InputError, match=r"p and p\.count\.part would both give p\.count"),
        prepared(
            request, place / "out", machine=Machine(),
            registry=Registry([Plugin("toy", "Toys", (part,))]),
        ),
    ):  # fmt: skip
        pass


def test_a_step_names_no_file_in_its_notes_nor_in_tracebacks(place, capsys):
    """The listing beside the results names each: it is the user's own."""
    (place / "files" / "q/in/c.part").write_text("")
    (place / "files" / "Zwicknagl.part").write_text("raise")
    request = ApplyRequest(
        predictor=Spec("toy/join"), checkpoint=place / "word", folder=place / "files"
    )
    told = []
    with pytest.raises(batch.Incomplete):
        apply(request, place / "out", emit=told.append, registry=registry())
    notes = [event.text for event in told if isinstance(event, Note)]
    assert notes == [
        "1 file is not read by toy/join: .md (1)",
        "failed: file 1 of request.folder: RuntimeError: it broke at file 1 of request.folder and "
        "file 1 of request.folder",
        "bad: folder of file 6 of request.folder: a part is empty",
    ]
    printed = capsys.readouterr().err
    assert "RuntimeError: it broke at file of folder" in printed
    assert "Zwicknagl" not in printed.replace(str(place), "")
    lines = (place / "out" / "files.jsonl").read_text().splitlines()
    assert "Zwicknagl.part" in {json.loads(line)["name"] for line in lines}
