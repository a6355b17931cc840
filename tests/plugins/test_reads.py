"""What a task of ours reads is stated, and another dataset is refused before the first step."""

import pytest
from commands import call

from core.cli import main
from core.parts.registry import installed
from core.task import Reading

TASKS = [name for name, _ in installed().names("task")]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_states_what_it_reads(name):
    assert isinstance(installed().load("task", name)(), Reading)


@pytest.mark.parametrize(
    ("task", "dataset", "expected", "found"),
    [
        ("medical/mri", "image2image/photos", "(1 h w)", "image (3 64 64)"),
        ("medical/ct", "image2image/photos", "(1 h w)", "image (3 64 64)"),
        ("image2image/sr3", "image2image/digits", "(3 h w)", "image (1 8 8), class ()"),
        ("image2image/colourise", "medical/phantoms", "(3 h w)", "image (1 32 32)"),
        ("image2image/jpeg", "core/points", "which is not there", "point (2), class ()"),
    ],
)
def test_another_dataset_is_refused_before_the_first_step(task, dataset, expected, found, tmp_path):
    options = {"image2image/photos": ["dataset.size=64", "dataset.patches=64"],
               "medical/phantoms": ["dataset.size=32", "dataset.count=5"]}  # fmt: skip
    settings = [f"task={task}", f"dataset.name={dataset}", *options.get(dataset, ()), "steps=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = call(main, "train", *words, "-o", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: task {task} reads 'image'")
    assert expected in done.stderr
    assert f"an item of dataset {dataset} has {found}" in done.stderr
    assert not (tmp_path / "run").exists()
