"""S1, S2: nothing is unpickled on trust; hostile files of weights neither run nor fill memory."""

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InputError
from core.weights import read
from core.weights.importing import import_weights

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = Path(__file__).parent / "hostile"
POLYMODE = Path(sys.executable).with_name("polymode")
TORTURE = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")
sys.path.insert(0, str(HOSTILE))
from pickles import honest, hostile  # noqa: E402

# --- S1: no such call in the source --------------------------------------------------------------

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "numpy.frombuffer.load", "pandas.read_pickle", "runpy.run_path", "torch.jit.load",
    "torch.hub.load", "torch.package.PackageImporter", "torch.distributed.checkpoint.load",
}  # fmt: skip
METHODS = {"extractall", "unsafe_load", "read_pickle"}
LOADER = "core/weights/unpickling.py"


def full_name(node, aliases):
    """The dotted name that a call's function has, imports under other names undone."""
    words = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *reversed(words)])


def is_true(value):
    return not (isinstance(value, ast.Constant) and value.value in (False, None))


def safe_loaders(tree):
    """Classes of a module that are YAML's safe loader with more refused: plain values only."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and list(map(ast.unparse, node.bases)) == ["yaml.SafeLoader"]
    }


def findings(text, where=""):
    """What in a module's source could run what a file holds."""
    tree, aliases, found = ast.parse(text), {"np": "numpy"}, []
    safe = safe_loaders(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(one.name, one.asname) for one in node.names]
            aliases |= {asname: name for name, asname in names if asname}
            found += [name for name, _ in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            if node.module.split(".")[0] in MODULES:
                found.append(node.module)
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name = full_name(node.func, aliases)
        given = {word.arg: word.value for word in node.keywords}
        called = node.func.attr if isinstance(node.func, ast.Attribute) else name.split(".")[-1]
        loader = given.get("Loader")
        if name == "yaml.load" and isinstance(loader, ast.Name) and loader.id in safe:
            continue
        if name in BANNED or called in METHODS:
            found.append(name or called)
        if name in ("torch.load", "torch.serialization.load"):
            only = given.get("weights_only")
            sure = isinstance(only, ast.Constant) and only.value is True
            if not sure or where != LOADER:
                found.append(name)
        for word in ("allow_pickle", "shell"):
            if word in given and is_true(given[word]):
                found.append(f"{name}({word}=...)")
    return found


@pytest.mark.slow
def test_no_module_can_run_what_a_file_holds():
    files = [
        p for folder in ("core", "plugins", "pipelines") for p in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 60
    found = {}
    for file in files:
        where = file.relative_to(ROOT).as_posix()
        if bad := findings(file.read_text(encoding="utf-8"), where):
            found[where] = bad
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from _pickle import Unpickler",
        "import marshal, os",
        "import shelve",
        "from cloudpickle import load",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x', weights_only=False)",
        "from torch import load\nload('x')",
        "import torch\ntorch.load('x', weights_only=flag)",
        "import torch\ntorch.load('x', weights_only=True)",  # outside its one place
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy\nnumpy.load('x', allow_pickle=flag)",
        "import yaml\nyaml.load('x', Loader=yaml.Loader)",
        "import yaml\nclass L(yaml.Loader): ...\nyaml.load('x', Loader=L)",
        "from yaml import full_load\nfull_load('x')",
        "import tarfile\ntarfile.open('x').extractall()",
        "archive.extractall('x')",
        "eval('1')",
        "exec('1')",
        "import os\nos.system('x')",
        "from os import system as run\nrun('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess as s\ns.Popen('x', shell=flag)",
        "import torch\ntorch.jit.load('x')",
    ],
)
def test_the_search_finds_every_form(text):
    assert findings(text)


def test_the_search_passes_what_is_harmless():
    text = "import numpy as np\nnp.load('x', allow_pickle=False)\nnetwork.eval()\nre.compile('x')"
    assert not findings(text)
    assert not findings("import torch\ntorch.load('x', weights_only=True)", LOADER)
    assert not findings("import yaml\nclass L(yaml.SafeLoader): ...\nyaml.load('x', Loader=L)")


# --- S2: hostile and honest files ----------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the reader's process says of every file; torch imported once, a fork for each."""
    folder, canary = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("away") / "canary"
    contents = hostile(canary) | {f"good-{n}": data for n, (data, _) in honest().items()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-W", "ignore", HOSTILE / "many.py", read.UNPICKLING, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return folder, canary, {line["name"]: line for line in lines}


@pytest.mark.slow
def test_the_canary_would_sing(tmp_path):
    """Unpickled on trust, these files do what they are made for."""
    for number, name in enumerate(("protocol_0.pt", "protocol_5.ckpt", "protocol_2.bin")):
        canary = tmp_path / f"canary{number}"
        pickle.loads(hostile(canary)[name])
        assert canary.exists()


def test_hostile_files_run_nothing_and_are_refused(answers):
    folder, canary, said = answers
    names = hostile(canary).keys()
    assert len(names) >= 35
    for name in names:
        answer = json.loads(said[name]["said"])
        assert answer["ok"] is False, name
        assert answer["why"], name
        assert "\n" not in answer["why"], name
        assert not (folder / f"made-{name}").exists(), name
    assert not canary.exists()


def test_hostile_files_take_little(answers):
    """Beside what importing torch takes, at most half a gibibyte is allowed, and 20 seconds."""
    _, canary, said = answers
    usual = said["good-plain.pt"]["kilobytes"]
    for name in hostile(canary):
        assert said[name]["seconds"] < 20, name
        assert said[name]["kilobytes"] < usual + 600 * 1024, name


def test_memory_ends_at_the_limit(answers):
    """640 MiB of zeros in a megabyte of file; half a gibibyte is allowed."""
    folder, _, said = answers
    assert (folder / "swells.pt").stat().st_size < 2**21
    assert "more memory" in said["swells.pt"]["said"]
    assert "claims 4,398,046,511,104 bytes" in said["claims.pt"]["said"]


@pytest.mark.parametrize("name", honest())
def test_honest_files_are_read(name, answers):
    folder, _, said = answers
    assert json.loads(said[f"good-{name}"]["said"])["ok"] is True
    found, wanted = load_file(folder / f"made-good-{name}"), honest()[name][1]
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


WHOLE = ["protocol_2.bin", "legacy.pt", "swells.pt", "deep.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"] if not TORTURE else [
    ".pt", ".ckpt", ".bin", ".pth", ".safetensors"])  # fmt: skip
@pytest.mark.parametrize("name", sorted(hostile("")) if TORTURE else WHOLE)
def test_hostile_files_are_refused_in_one_sentence(name, suffix, tmp_path):
    """From end to end, under names that promise one thing or the other."""
    canary, source = tmp_path / "canary", tmp_path / f"weights{suffix}"
    source.write_bytes(hostile(canary)[name])
    with pytest.raises(InputError) as caught:
        import_weights(source, tmp_path / "run")
    text = str(caught.value)
    assert "\n" not in text
    assert str(source) in text
    assert text.startswith(f"{source}: " + ("not a whole" if suffix == ".safetensors" else "refus"))
    assert not canary.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_says_one_line_and_ends_with_2(tmp_path):
    canary, source = tmp_path / "canary", tmp_path / "weights.pt"
    source.write_bytes(hostile(canary)["eval.pt"])
    command = [POLYMODE, "import-weights", source, "-o", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not canary.exists()


@pytest.mark.slow
def test_a_pickled_file_inside_a_diffusers_folder_is_refused_too(tmp_path):
    folder, canary = tmp_path / "model", tmp_path / "canary"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (folder / "diffusion_pytorch_model.bin").write_bytes(hostile(canary)["protocol_1.ckpt"])
    with pytest.raises(InputError, match="refused: refers to"):
        import_weights(folder, tmp_path / "run")
    assert not canary.exists()


# --- the parent trusts nothing that the process says ---------------------------------------------


def with_child(monkeypatch, tmp_path, body):
    """Read a file by a process that does `body` instead."""
    child = tmp_path / "child.py"
    child.write_text(f"import os, time\ndef work(begin, *given):\n    begin()\n    {body}\n")
    monkeypatch.setattr(read, "UNPICKLING", child)
    source = tmp_path / "weights.pt"
    source.write_bytes(b"PK, not safetensors")
    return lambda: read.read_weights(source)


def test_nothing_of_the_environment_reaches_the_process(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "canary-value")
    body = "return {'ok': False, 'why': repr((dict(os.environ), os.getcwd()))}"
    with pytest.raises(InputError) as caught:
        with_child(monkeypatch, tmp_path, body)()
    assert "OMP_NUM_THREADS" in str(caught.value)
    assert "canary-value" not in str(caught.value)
    assert str(ROOT) not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('answer', 'w').write('no JSON') and os._exit(0)", "ended the process"),
        ("open('answer', 'w').write('[' * 60_000) and os._exit(0)", "ended the process"),
        ("os.mkfifo('answer') or os._exit(0)", "ended the process"),
        ("os._exit(0)", "ended the process"),
        ("return [1]", "ended the process"),
        ("return object()", "ended the process"),
        ("raise SystemExit(3)", "ended the process"),
        ("os.kill(os.getpid(), 11)", "ended the process"),
        ("os.kill(os.getpid(), 24)", "took too long"),
        ("open('answer', 'w').write('{' * 10_000_000)", "ended the process"),
        ("return {'ok': False, 'why': 'x' * 1_000_000}", "ended the process"),
        ("return {'ok': False, 'why': len(bytearray(1 << 30))}", "ended the process"),
        ("os.fork()", "ended the process"),
        ("return {'ok': True, 'taken': '', 'left': []}", "not a whole safetensors"),
        ("return {'ok': False, 'why': 'two\\nlines\\x1b[2J' + 'x' * 9999}", "two?lines?"),
    ],
)
def test_whatever_the_process_does_is_one_sentence(body, words, monkeypatch, tmp_path):
    with pytest.raises(InputError) as caught:
        with_child(monkeypatch, tmp_path, body)()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_process_that_does_not_end_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(read, "PATIENCE", 0.5)
    note = tmp_path / "pid"
    body = f"open({str(note)!r}, 'w').write(str(os.getpid())) and time.sleep(600)"
    with pytest.raises(InputError, match="took too long"):
        with_child(monkeypatch, tmp_path, body)()
    if note.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.read_text()), 0)


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pipe"])
def test_what_is_no_file_is_said(kind, tmp_path):
    source = tmp_path / "weights.pt"
    if kind == "empty":
        source.touch()
    if kind == "folder":
        source.mkdir()
    if kind == "pipe":
        os.mkfifo(source)
    with pytest.raises(InputError, match=r"weights\.pt: "):
        read.read_weights(source)
