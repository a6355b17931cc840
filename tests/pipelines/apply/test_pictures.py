"""Which files of a folder are shown beside their results, and that none of them is needed."""

import json
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.request import Machine
from core.task import Panel
from pipelines.apply.ledger import Record
from pipelines.apply.listing import Order
from pipelines.apply.pictures import COUNT, write_pictures


class Shows:
    """A predictor's class that shows every file but some."""

    @staticmethod
    def show(source, target, facts):
        if facts.get("large"):
            raise InputError("memory does not hold it")
        if facts.get("none"):
            return None
        assert (source.parent.name, target.parent.name) == ("photos", "results")
        return Panel(source.name, whole={"result": np.zeros((4, 6), np.uint8)})


def shown(out, records, build=Shows):
    order = Order(
        build=build, options={}, machine=Machine(), checkpoint=Path("/x"), digest="", key="",
        folder=out / "photos", out=out,
    )  # fmt: skip
    write_pictures(order, records)
    return [panel["title"] for panel in json.loads((out / "panels.json").read_text())["panels"]]


def record(number, **facts):
    name = f"{number:02d}.png"
    return Record(name=name, state="done", result=name, facts=facts)


def test_files_are_spread_evenly_over_the_folder(tmp_path):
    records = [record(number) for number in reversed(range(5 * COUNT))]
    assert shown(tmp_path, records) == [f"{5 * number:02d}.png" for number in range(COUNT)]
    assert len(list((tmp_path / "pictures").iterdir())) == COUNT
    assert shown(tmp_path, records[-2:]) == ["00.png", "01.png"]
    assert len(list((tmp_path / "pictures").iterdir())) == 2  # those of an earlier call are gone


def test_a_file_that_cannot_be_shown_gives_its_place_to_the_next(tmp_path):
    records = [record(n, large=n % 3 == 0, none=n % 3 == 1) for n in range(3 * COUNT)]
    records += [Record(name=f"{n:02d}.txt", state="bad") for n in range(99)]
    assert shown(tmp_path, records) == [f"{3 * number + 2:02d}.png" for number in range(COUNT)]


def test_a_predictor_that_shows_nothing_writes_nothing(tmp_path):
    class Mute:
        pass

    order = Order(
        build=Mute, options={}, machine=Machine(), checkpoint=Path("/x"), digest="", key="",
        folder=tmp_path, out=tmp_path,
    )  # fmt: skip
    write_pictures(order, [record(1)])
    assert list(tmp_path.iterdir()) == []
