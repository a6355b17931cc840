"""A training shared by two workers of Ray is the training of one, up to the order of sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from core.config import ConfigError
from pipelines.job import parse

REQUEST = {
    "task": {"name": "image2image/sr3", "scale": 4},
    "dataset": {"name": "image2image/photos", "size": 32},
    "network": {
        "name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [],
        "middle_attention": False,
    },
    "process": "core/vp_linear", "weighting": "core/v", "steps": 50, "batch": 4,
}  # fmt: skip
RUN = "from pipelines.cli import main; main()"


def weights(folder: Path) -> dict[str, dict]:
    found = sorted(folder.glob("store/train-*/checkpoints/step-00000050/*.safetensors"))
    return {path.name: load_file(path) for path in found}


@pytest.mark.slow
def test_two_workers_train_what_one_trains(tmp_path):
    """Gradients of each half of a batch are added: the bound is what the job promises."""
    pytest.importorskip("pandas")  # Ray Train's own requirements
    pytest.importorskip("pyarrow")
    step = {"run": "train", "workers": 2, "request": REQUEST}
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "two", "steps": {"train": step}}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in (["--out", "one", "--local"], ["--out", "two"]):
        command = [sys.executable, "-c", RUN, "run", "job.yaml", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=400)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert one
    for name, tensors in one.items():
        for key, tensor in tensors.items():
            difference = (tensor.double() - two[name][key].double()).abs().max()
            assert difference <= 1e-5, (name, key)
    assert not list(tmp_path.glob("two/store/*/.together"))


def test_only_training_is_shared():
    step = {"run": "sample", "workers": 2, "request": {"checkpoint": "x"}}
    with pytest.raises(ConfigError, match=r"steps\.s\.workers: only train is shared by several"):
        parse({"name": "j", "steps": {"s": step}})
