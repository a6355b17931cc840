"""Train, sample, evaluate as a user runs them: killed, resumed, damaged, misused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import call

from core.cli import main
from core.errors import InputError
from core.model import load_model
from core.parts.registry import Spec
from core.request import EvaluateRequest, JoinRequest, SampleRequest, TrainRequest
from core.runs import evaluate, sample, train
from core.storage import checkpoint

NETWORK = Spec(
    "core/unet", {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "patch": 2}
)
DATA = Spec("image2image/photos", {"size": 32, "patches": 64, "per_photo": 2})


def request(**options):
    settings = {
        "steps": 6,
        "batch": 2,
        "lr": 1e-3,
        "warmup": 2,
        "network": NETWORK,
        "dataset": DATA,
    }
    return TrainRequest(task=Spec("image2image/sr3"), **{**settings, **options})


def weights(folder):
    """SHA-256 of every tensor of the newest checkpoint: model, average and optimizer."""
    found = checkpoint.load(Path(folder))
    return {
        f"{group}/{name}": hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for group, named in found.tensors.items()
        for name, value in named.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(request(), folder)
    return folder


@pytest.mark.slow
def test_the_same_request_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    train(request(), tmp_path / "again")
    train(request(seed=1), tmp_path / "other")
    assert weights(tmp_path / "again") == weights(trained)
    assert weights(tmp_path / "other") != weights(trained)


COMMAND = [
    sys.executable, "-m", "core", "train", "--threads", "1", "--save-seconds", "0.2",
    "--set", "task=image2image/sr3", "--set", "dataset=image2image/photos",
    "--set", "dataset.size=32", "--set", "dataset.patches=64",
    "--set", "network.width=8", "--set", "network.multipliers=[1, 2]", "--set", "network.blocks=1",
    "--set", "network.attention=[]", "--set", "steps=90", "--set", "batch=4", "--set", "warmup=5",
]  # fmt: skip


@pytest.mark.slow
def test_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path):
    """kill -9 twice in mid-training; every tensor equals the undisturbed run's."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([*COMMAND, "-o", undisturbed], check=True, capture_output=True)
    kills = 0
    while kills < 2:
        process = subprocess.Popen([*COMMAND, "-o", killed], stderr=subprocess.DEVNULL)
        seen = {p.name for p in killed.glob("checkpoints/step-*")}
        while (
            process.poll() is None and {p.name for p in killed.glob("checkpoints/step-*")} <= seen
        ):
            time.sleep(0.02)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 2, "training ended before it could be killed"
    done = subprocess.run([*COMMAND, "-o", killed], check=True, capture_output=True, text=True)
    assert "resuming from step" in done.stderr
    assert weights(killed) == weights(undisturbed)
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").open()]
    assert steps == list(range(1, 91))


@pytest.mark.slow
def test_a_truncated_checkpoint_falls_back_and_the_end_is_the_same(trained, tmp_path):
    from core.request import Machine

    notes = []
    train(request(), tmp_path, machine=Machine(save_seconds=1e-6))
    newest = tmp_path / "checkpoints" / "step-00000006" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert "step-00000005" in load_model(tmp_path).notes[-1]
    train(request(), tmp_path, emit=lambda event: notes.append(getattr(event, "text", "")))
    assert any("passed over a damaged checkpoint: step-00000006" in note for note in notes)
    assert any("resuming from step 5" in note for note in notes)
    assert weights(tmp_path) == weights(trained)


def stopped_and_resumed(wanted, folder, after, monkeypatch):
    """Train, ended right after the checkpoint of a step, then by the same request to the end."""
    from core.request import Machine

    write = checkpoint.save

    def save(folder, step, *rest, **more):
        write(folder, step, *rest, **more)
        if step == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, folder, machine=Machine(save_seconds=1e-6))
    notes = []
    train(wanted, folder, emit=lambda event: notes.append(getattr(event, "text", "")))
    assert any(f"resuming from step {after} " in note for note in notes)


def files_of(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("[0-9]*")}


@pytest.mark.slow
def test_all_that_a_run_learns_beside_its_weights_survives_a_stop(tmp_path, monkeypatch):
    """Times that learn, power averages and snapshots, conditions dropped, variances learned."""
    wanted = request(
        steps=12,
        batch=4,
        unconditional=0.3,
        snapshots=4,
        objective=Spec("core/hybrid", {"steps": 50}),
        times=Spec("core/loss_aware", {"bins": 2, "history": 3}),
    )
    train(wanted, tmp_path / "whole")
    stopped_and_resumed(wanted, tmp_path / "stopped", 5, monkeypatch)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert any(name.startswith("times/") for name in weights(tmp_path / "whole"))
    assert any(name.startswith("averages/0.05/") for name in weights(tmp_path / "whole"))
    expected = [f"{step:08d}.safetensors" for step in (4, 8, 12)]
    assert sorted(files_of(tmp_path / "whole" / "averages")) == expected
    assert files_of(tmp_path / "stopped" / "averages") == files_of(tmp_path / "whole" / "averages")
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped/metrics.jsonl").open()]
    assert steps == list(range(1, 13))

    # A saved width is read back as it was followed; another is neither of the two.
    followed = checkpoint.load(tmp_path / "whole").tensors["averages"]
    from core.network.ema import reconstruct

    found = reconstruct(tmp_path / "whole" / "averages", 0.1, until=12)[1]
    for name, value in found.items():
        assert (value - followed[f"0.1/{name}"]).abs().max() < 1e-5 * (1 + value.abs().max())

    # The learned variance is heard by the sampler, and asked for in vain of another network.
    grid = Spec("core/uniform_log_snr", {"steps": 3})

    def draw(name, **options):
        asked = SampleRequest(
            checkpoint=tmp_path / "whole", grid=grid, count=1, **{"ema": True, **options}
        )
        sample(asked, tmp_path / name)
        from safetensors.torch import load_file

        return load_file(tmp_path / name / "samples.safetensors")["samples"]

    learned = draw("learned", sampler=Spec("core/ancestral", {"variance": "learned"}))
    assert learned.isfinite().all()
    assert not torch.equal(learned, draw("small", sampler=Spec("core/ancestral")))
    wide = draw("wide", ema_width=0.2)
    assert not torch.equal(wide, draw("narrow", ema_width=0.06))
    with pytest.raises(InputError, match="names an average, but ema is false"):
        draw("neither", ema_width=0.1, ema=False)


def test_what_a_run_did_not_save_is_asked_for_in_vain(trained, tmp_path):
    with pytest.raises(InputError, match="holds no snapshots of averages; train with --set snap"):
        load_model(trained, ema_width=0.1)
    grid = Spec("core/uniform_log_snr", {"steps": 3})
    learned = Spec("core/ancestral", {"variance": "learned"})
    with pytest.raises(InputError, match="the network learned none; train with core/hybrid"):
        sample(SampleRequest(checkpoint=trained, grid=grid, sampler=learned, count=1), tmp_path)


def test_a_folder_of_another_run_is_not_mixed_with_this_one(trained):
    with pytest.raises(InputError, match="differs in lr; choose another output folder"):
        train(request(lr=1e-4), trained)


def test_a_checkpoint_of_another_task_is_refused(trained):
    with pytest.raises(InputError, match=r"trained for .*, got one for 'image2image/sr3'"):
        load_model(trained, task="image2image/palette")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_join_to_the_very_files_of_one_run(trained, tmp_path, parts):
    from core.results.samples import join

    def draw(out, **options):
        grid = Spec("core/uniform_log_snr", {"steps": 2})
        asked = SampleRequest(
            checkpoint=trained, grid=grid, sampler=Spec("core/ancestral"), count=5, samples=2,
            batch=2 if parts == 5 else 3, **options,
        )  # fmt: skip
        sample(asked, tmp_path / out)
        return tmp_path / out

    # With a batch of 3, items are cut in two by the batches: 4 batches of 10 draws.
    if parts == 5:
        with pytest.raises(InputError, match="expected at most 5, the number of batches, got 6"):
            draw("none", part=1, parts=6)
    whole = draw("whole")
    folders = {str(i): draw(str(i), part=i, parts=parts) for i in range(parts, 0, -1)}
    result = join(JoinRequest(), folders, tmp_path / "joined")
    assert (result.items, result.draws) == (5, 2)
    written = {f.name: f.read_bytes() for f in whole.iterdir()}
    assert {f.name: f.read_bytes() for f in (tmp_path / "joined").iterdir()} == written
    assert {"samples.safetensors", "samples.json", "sheet.png"} == written.keys()
    with pytest.raises(InputError, match="no samples that `sample` wrote"):
        evaluate(EvaluateRequest(samples=folders["1"]), tmp_path / "e")
    for missing in folders:
        with pytest.raises(InputError, match="expected every part of one run once"):
            join(
                JoinRequest(), {k: v for k, v in folders.items() if k != missing}, tmp_path / "none"
            )
    with pytest.raises(InputError, match="expected every part of one run once"):
        join(JoinRequest(), {**folders, "again": folders["1"]}, tmp_path / "none")
    with pytest.raises(InputError, match="no part that `sample` wrote"):
        join(JoinRequest(), {**folders, "1": whole}, tmp_path / "none")
    other = draw("other", part=1, parts=parts, seed=1)
    with pytest.raises(InputError, match="these parts are of different runs"):
        join(JoinRequest(), {**folders, "1": other}, tmp_path / "none")
    with pytest.raises(InputError, match=f"part: expected 1 to {parts}"):
        draw("none", part=parts + 1, parts=parts)


def test_draws_do_not_depend_on_batch_or_count(trained, tmp_path):
    def draws(out, **options):
        grid = Spec("core/uniform_log_snr", {"steps": 3})
        asked = SampleRequest(checkpoint=trained, grid=grid, samples=2, **options)
        sample(asked, tmp_path / out)
        from safetensors.torch import load_file

        return load_file(tmp_path / out / "samples.safetensors")["samples"]

    whole = draws("whole", batch=8, count=4)
    assert whole.shape == (4, 2, 3, 32, 32)
    assert not torch.equal(whole[0, 0], whole[0, 1])
    # Convolutions of another batch size may round differently: 1e-5 of a range of 2.
    assert (draws("small", batch=3, count=4) - whole).abs().max() < 1e-5
    assert (draws("few", batch=8, count=1) - whole[:1]).abs().max() < 1e-5
    assert (draws("seed", batch=8, count=1, seed=5) - whole[:1]).abs().max() > 1e-3


def test_evaluate_scores_bicubic_as_scikit_image_does(trained, tmp_path):
    from skimage import data as photographs
    from skimage.metrics import peak_signal_noise_ratio

    from core.results.sheet import to_bytes
    from plugins.image2image.data.photos import Photos

    grid = Spec("core/uniform_log_snr", {"steps": 2})
    sample(SampleRequest(checkpoint=trained, grid=grid, samples=2), tmp_path / "s")
    result = evaluate(EvaluateRequest(samples=tmp_path / "s", pictures=2), tmp_path / "e")
    report = json.loads(result.metrics.read_text())
    assert report["n"] == 6
    assert report["sources"] == ["chelsea", "coffee", "rocket"]
    dataset, expected = Photos("test", size=32, patches=64, per_photo=2), []
    from PIL import Image

    for i in range(6):
        truth = to_bytes(dataset[i]["image"])
        assert truth.tobytes() in _windows(getattr(photographs, {"chelsea": "cat"}.get(
            dataset.source(i), dataset.source(i)))())  # fmt: skip
        small = Image.fromarray(truth).resize((8, 8), Image.Resampling.BICUBIC)
        large = small.resize((32, 32), Image.Resampling.BICUBIC)
        import numpy as np

        expected.append(peak_signal_noise_ratio(truth, np.asarray(large), data_range=255))
    found = report["methods"]["bicubic"]["psnr"]
    # Pillow rounds to 8 bits between its passes: hundredths of a dB.
    assert found["mean"] == pytest.approx(sum(expected) / 6, abs=0.05)
    assert found["low"] <= found["mean"] <= found["high"]
    for panel in report["panels"]:
        for image in panel["images"]:
            with Image.open(tmp_path / "e" / image["file"]) as shown:
                assert shown.size == (image["width"], image["height"])


def _windows(pixels):
    """Every 32x32 crop's bytes; a set of a few hundred thousand is too much, so rows are tried."""
    import numpy as np

    class Crops:
        def __contains__(self, wanted):
            tile = np.frombuffer(wanted, np.uint8).reshape(32, 32, 3)
            rows = np.lib.stride_tricks.sliding_window_view(pixels, (1, 32, 3))[:, :, 0, 0]
            tops = np.argwhere((rows == tile[0]).all((-1, -2)))
            return any(
                np.array_equal(pixels[y : y + 32, x : x + 32], tile) for y, x in tops.tolist()
            )

    return Crops()


def test_samples_of_other_data_are_refused(trained, tmp_path):
    sample(
        SampleRequest(checkpoint=trained, count=1, grid=Spec("core/uniform_time", {"steps": 2})),
        tmp_path / "s",
    )
    about = json.loads((tmp_path / "s" / "samples.json").read_text())
    (tmp_path / "s" / "samples.json").write_text(json.dumps({**about, "data": "other"}))
    with pytest.raises(InputError, match="drawn for other data"):
        evaluate(EvaluateRequest(samples=tmp_path / "s"), tmp_path / "e")


def test_samples_that_are_not_what_was_drawn_are_refused(trained, tmp_path):
    place, grid = tmp_path / "s", Spec("core/uniform_time", {"steps": 2})
    sample(SampleRequest(checkpoint=trained, count=1, grid=grid), place)
    file = place / "samples.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # in the last value's mantissa or exponent: a number like any other
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"no samples that `sample` wrote: .*draw again"):
        evaluate(EvaluateRequest(samples=place), tmp_path / "e")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--set", "task=image2image/sr4", "--set", "dataset=image2image/photos"],
         "task: no task named 'image2image/sr4'; did you mean 'image2image/sr3'?"),
        (["train", "--set", "task=image2image/sr3", "--set", "dataset=image2image/photos",
          "--set", "network.widht=3"], "network.widht: unknown option; did you mean 'width'?"),
        (["train", "--set", "task=image2image/sr3", "--set", "dataset=image2image/photos",
          "--set", "steps=many"], "steps: expected int, got 'many'"),
        (["train", "none.yaml"], "none.yaml: cannot be read"),
        (["train", "--set", "task=image2image/sr3", "--set", "dataset=image2image/photos",
          "--set", "steps=1", "-o", "/proc/out"], "/proc/out: cannot write there"),
        (["train", "--set", "task=image2image/sr3", "--set", "dataset=image2image/folder",
          "--set", "dataset.root=empty"], "empty"),
        (["train", "--set", "task=image2image/sr3", "--set", "dataset=image2image/photos",
          "--device", "cuda"], "0 usable GPUs"),
        (["sample", "--set", "checkpoint=empty"], "no checkpoint in this folder"),
        (["sample", "--set", "checkpoint=nowhere"], "nowhere: does not exist"),
        (["evaluate", "--set", "samples=empty"], "no samples that `sample` wrote"),
        (["show", "network", "core/unt"], "did you mean 'core/unet'?"),
        (["show", "netwrok", "core/unet"], "did you mean 'network'?"),
        (["list", "nets"], "no kind of part named 'nets'"),
        (["train", "--stes", "3"], "No such option: --stes"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path):
    (tmp_path / "empty").mkdir()
    done = call(main, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
