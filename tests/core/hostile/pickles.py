"""Files of weights that would run code, or take the machine, if they were unpickled on trust."""

import importlib
import io
import marshal
import os
import pickle
import zipfile
from functools import cache

import torch


class Calls:
    """Pickles as a call of a function by name."""

    def __init__(self, module, name, *arguments):
        self.function, self.arguments = getattr(importlib.import_module(module), name), arguments

    def __reduce__(self):
        return self.function, self.arguments


class Sets:
    """Pickles as an allowed call whose result is then given a state that calls."""

    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return torch.Size, ((1,),), {"x": self.inner}


def called(module, name, *arguments, protocol=2):
    """The opcodes of module.name(*arguments), for names that may not be importable here."""
    body = b"".join(pickle.dumps(value, protocol)[2:-1] for value in arguments)
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"(" + body + b"tR."


def archive(data, **entries):
    """A .pt of today's form with this pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as pack:
        pack.writestr("archive/data.pkl", data)
        pack.writestr("archive/version", "3\n")
        pack.writestr("archive/byteorder", "little")
        for name, content in entries.items():
            pack.writestr(f"archive/{name}", content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def tensor_of(key, count, size, stride):
    """The pickle of one float32 tensor over storage `key` of so many elements."""
    return (
        b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x00" + key.encode() + b"X\x03\x00\x00\x00cpuJ"
        + count.to_bytes(4, "little") + b"tQK\x00"
        + pickle.dumps(size, 2)[2:-1] + pickle.dumps(stride, 2)[2:-1]
        + b"\x89ccollections\nOrderedDict\n)RtRu."
    )  # fmt: skip


@cache
def scripted():
    class Module(torch.nn.Module):
        def forward(self, x):
            return x

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Module(), torch.ones(1)), file)
    return file.getvalue()


def hostile(canary):
    """Name of a file -> its bytes; each would leave the file `canary` behind, or fill memory."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    system = Calls("os", "system", touch)
    found = {
        f"protocol_{number}{suffix}": pickle.dumps({"w": system}, number)
        for number, suffix in enumerate((".pt", ".ckpt", ".bin", ".pth", ".pt", ".ckpt"))
    }
    marshalled = marshal.dumps(compile(code, "x", "exec"))
    inner = pickle.dumps(system, 2)
    found |= {
        "eval.pt": saved({"w": Calls("builtins", "eval", f"__import__('os').system({touch!r})")}),
        "exec.bin": saved([Calls("builtins", "exec", code)]),
        "getattr.pth": called("builtins", "getattr", system, "x"),
        "import_module.ckpt": called("importlib", "import_module", "this"),
        "marshal.pt": called("marshal", "loads", marshalled),
        "popen.pt": saved({"w": Calls("subprocess", "Popen", ["touch", str(canary)])}),
        "dotted_name.pt": called("torch._utils", "_import_dotted_name", "os.system"),
        "torch_load.pt": called("torch.serialization", "load", "/dev/stdin"),
        "load_from_bytes.bin": called("torch.storage", "_load_from_bytes", inner),
        "unsafe_tensor.pt": called(
            "torch._utils", "_rebuild_device_tensor_from_numpy", system, "float32", "cpu", False
        ),
        "runstring.pth": called("numpy.testing._private.utils", "runstring", code, {}),
        "main.ckpt": called("__main__", "pick", {}, ""),
        "pip.pt": called("pip", "main", ["install", "x"]),
        "legacy.pt": saved({"w": system}, _use_new_zipfile_serialization=False),
        "argument.pt": archive(pickle.dumps({"w": torch.Size((1,)), "v": system}, 2)),
        "state.pt": archive(pickle.dumps({"w": Sets(system)}, 2)),
        "nested.zip.pt": archive(pickle.dumps(7, 2), **{"data/0": archive(inner)}),
        "instance.pt": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "inst.pt": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "script.pt": scripted(),
        "list.ckpt": saved([torch.ones(3)]),
        "module.pth": saved(torch.nn.Linear(2, 2)),
        "function.pt": saved({"w": torch.ones(1), "f": os.path.join}),
        "empty.bin": saved({}),
        "text.pt": b"these are no weights\n" * 50,
        "cut.pt": saved({"w": torch.ones(1000)})[:-700],
        "claims.pt": archive(
            tensor_of("0", 1, (2**20, 2**20), (0, 0)), **{"data/0": b"\0" * 4}
        ),
        "beyond.pt": archive(tensor_of("0", 1, (2**10,), (1,)), **{"data/0": b"\0" * 4}),
        "negative.pt": archive(tensor_of("0", 1, (4,), (-1,)), **{"data/0": b"\0" * 4}),
        "swells.pt": swollen(),
        "deep.pt": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "laughs.pt": laughs(60),
    }  # fmt: skip
    return found


@cache
def swollen():
    """640 MiB of zeros in a file of less than one."""
    count = 5 * 2**25
    return archive(tensor_of("0", count, (count,), (1,)), **{"data/0": bytes(4 * count)})


def laughs(depth):
    """Lists of ten references to a list of ten references ...: 10^depth entries if walked."""
    made = b"\x80\x02]q\x00"
    for level in range(1, depth):
        refers = b"h" + bytes([level - 1])
        made += b"]q" + bytes([level]) + b"(" + refers * 10 + b"e"
    return made + b"."


def honest():
    """Name of a file -> its bytes and the tensors it holds."""
    plain = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    base = torch.arange(10.0)
    views = {"turned": base.reshape(2, 5).T, "first": base[:4], "every": base[::2]}
    narrow = {"h": torch.ones(3).half(), "c": torch.ones(2).bfloat16(), "n": torch.tensor(True)}
    held = {"p": torch.nn.Parameter(base / 3), "q": torch.nn.Parameter(base[:2] * 0)}
    return {
        "plain.pt": (saved(plain), plain),
        "legacy.pth": (saved(plain, _use_new_zipfile_serialization=False), plain),
        "nested.ckpt": (saved({"step": 3, "state_dict": plain, "lr": 0.1}), plain),
        "views.bin": (saved(views), views),
        "narrow.pt": (saved(narrow), narrow),
        "parameters.pt": (saved(held), held),
        "averaged.pt": (saved({"model": narrow, "ema": plain}), plain),
    }
