"""LPIPS against its formula in numpy, in tiles and whole, and files that are not its weights."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file

from core.errors import InputError
from core.storage import memory
from plugins.image2image.evaluation import lpips

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def weights(backbone="alex", seed=0):
    """Random ones that keep the spread of the maps from layer to layer (He et al. 2015)."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in lpips._shapes(backbone).items():
        x = torch.randn(shape, generator=draw)
        fan = torch.Size(shape[1:]).numel()
        found[name] = x.abs() if "lin" in name else x * (2 / fan) ** 0.5 if fan > 1 else 0.1 * x
    return found


def stored(folder, tensors, name="w.safetensors"):
    save_file(tensors, folder / name)
    return folder / name


def pair(height, width, seed=1):
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(1, 3, height, width, generator=draw) * 2 - 1 for _ in range(2))
    return a, (a + b) / 2


def formula(w, a, b):
    """AlexNet and eq. 1 in float64."""
    w = {name: value.double().numpy() for name, value in w.items()}

    def maps(x):
        x = (x[0].double().numpy() + 1) / 2
        x = (x - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[
            :, None, None
        ]
        for index, stride, pad, pooled in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0),
                                           (10, 1, 1, 0)):  # fmt: skip
            if pooled:
                x = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
            kernel = w[f"features.{index}.weight"]
            x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
            seen = sliding_window_view(x, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
            x = np.einsum("chwij,ocij->ohw", seen, kernel, optimize=True)
            x = np.maximum(x + w[f"features.{index}.bias"][:, None, None], 0)
            yield x / np.sqrt((x**2).sum(0))

    return sum(
        (w[f"lin{k}.model.1.weight"][0] * (x - y) ** 2).sum(0).mean()
        for k, (x, y) in enumerate(zip(maps(a), maps(b), strict=True))
    )


def test_it_is_the_formula_of_the_paper(tmp_path):
    w = weights()
    network = lpips.load([stored(tmp_path, w)])
    a, b = pair(47, 61)
    assert network.distance(a, b) == pytest.approx(formula(w, a, b), rel=1e-4)  # float32
    assert network.distance(b, a) == pytest.approx(network.distance(a, b), rel=1e-6)
    assert network.distance(a, a) == 0
    grey = [x[:, :1] for x in (a, b)]
    assert network.distance(*grey) == network.distance(*(x.expand(-1, 3, -1, -1) for x in grey))


@pytest.mark.parametrize("backbone", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [(40, 261), (263, 37)])
def test_tiles_give_the_distance_of_the_whole(tmp_path, monkeypatch, backbone, size):
    network = lpips.load([stored(tmp_path, weights(backbone))])
    a, b = pair(*size)
    whole = network.distance(a, b)
    monkeypatch.setattr(lpips, "TILE", 32)
    assert network.distance(a, b) == pytest.approx(whole, rel=1e-6)  # sums in another order
    monkeypatch.setattr(lpips, "MARGIN", 32)  # the receptive field is wider
    assert abs(network.distance(a, b) / whole - 1) > 1e-5


def test_names_of_other_files_and_two_files_are_the_same_network(tmp_path):
    w = weights()
    known = lpips.load([stored(tmp_path, w)])
    heads = {name: value for name, value in w.items() if "lin" in name}
    rest = {name: value for name, value in w.items() if "lin" not in name}
    vision = rest | {"classifier.1.weight": torch.zeros(4, 4)}
    sliced = {f"net.slice{1 + k // 2}.{n.removeprefix('features.')}": v
              for k, (n, v) in enumerate(rest.items())}  # fmt: skip
    numbered = {f"lins.{name[3]}.model.1.weight": v.clone() for name, v in heads.items()}
    package = sliced | numbered | heads | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    two = [stored(tmp_path, vision, "a.safetensors"), stored(tmp_path, heads, "b.safetensors")]
    for found in (lpips.load(two), lpips.load([stored(tmp_path, package)])):
        assert found.name == known.name
        assert all(torch.equal(found.weights[name], value) for name, value in w.items())
    other = lpips.load([stored(tmp_path, weights(seed=1))])
    assert other.name != known.name
    assert known.name.startswith("LPIPS alex ")
    half = {name: value.bfloat16() for name, value in w.items()}
    assert (
        lpips.load([stored(tmp_path, half)]).weights["lin0.model.1.weight"].dtype == torch.float32
    )


def test_other_files_are_refused_in_a_sentence_that_names_the_tensors(tmp_path):
    w = weights()
    head = "lin1.model.1.weight"
    lacking = {name: value for name, value in w.items() if "lin" not in name}
    for tensors, message in (
        (lacking, r"missing: lin0.model.1.weight, lin1.model.1.weight and 3 more; .*--lpips HEADS"),
        (w | {"x": torch.zeros(1)}, "surplus: x; "),
        (w | {head: torch.zeros(1, 64, 1, 1)},
         r"of another shape: lin1.model.1.weight \(1, 64, 1, 1\), expected \(1, 192, 1, 1\)"),
        (w | {head: -w[head]}, f"{head} has negative weights"),
        (w | {head: w[head].long()}, f"{head} has the type torch.int64"),
        (w | {head: w[head] / 0}, "192 of 192 values NaN or infinite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as caught:
            lpips.load([stored(tmp_path, tensors)])
        assert "\n" not in str(caught.value)
    twice = [stored(tmp_path, w), stored(tmp_path, w, "again.safetensors")]
    with pytest.raises(InputError, match=r"is in .*w.safetensors too; give each tensor once"):
        lpips.load(twice)


def test_nothing_is_read_of_a_pickle_or_beyond_the_memory(tmp_path, monkeypatch):
    torch.save(weights(), tmp_path / "alex.pth")
    with pytest.raises(
        InputError, match=r"save_file\(torch\.load\('alex\.pth', map_location='cpu'"
    ):
        lpips.load([tmp_path / "alex.pth"])
    (tmp_path / "$(reboot).pth").write_bytes((tmp_path / "alex.pth").read_bytes())
    with pytest.raises(InputError, match=r"torch\.load\('weights\.pth'"):  # safe in a shell
        lpips.load([tmp_path / "$(reboot).pth"])
    many = {f"blocks.{i}.x": torch.zeros(1) for i in range(4097)}
    with pytest.raises(InputError, match="has 4,097 tensors, expected 4,096 or fewer"):
        lpips.load([stored(tmp_path, many)])
    whole = stored(tmp_path, weights())
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-4])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        lpips.load([cut])
    with pytest.raises(InputError, match="No such file"):
        lpips.load([tmp_path / "none.safetensors"])
    monkeypatch.setattr(memory, "free", lambda: 2**20)
    with pytest.raises(InputError, match=r"2,470,848 weights take 0.0 GiB"):
        lpips.load([whole])


def test_images_without_a_position_in_the_last_maps_are_refused(tmp_path):
    network = lpips.load([stored(tmp_path, weights())])
    assert network.distance(*pair(31, 31)) > 0
    with pytest.raises(InputError, match="40x30 pixels are too few for LPIPS, which needs 31"):
        network.distance(*pair(30, 40))
