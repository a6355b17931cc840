"""Class tokens against a transformer in numpy, names of files, and files of other networks."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import erf, softmax

from core.errors import InputError
from core.network.vision_transformer import Sizes, VisionTransformer
from core.results.distances import cosine_distance
from core.weights import dino

SIZES = Sizes(patch=8, width=64, depth=2, heads=1, hidden=24, grid=28)


def weights(**sizes):
    draw = torch.Generator().manual_seed(0)
    network = VisionTransformer(Sizes(**{**vars(SIZES), **sizes}))
    return {
        name: torch.randn(value.shape, generator=draw) * 0.3
        for name, value in network.state_dict().items()
    }


def stored(folder, tensors, config=None):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def transformer(w, x, *, heads, patch):
    """The class token of an image on the grid of the position embedding, in float64."""
    w = {name: value.double().numpy() for name, value in w.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attended(x, name):
        q, k, v = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        each = [
            softmax(a @ b.T / math.sqrt(a.shape[1]), axis=-1) @ c
            for a, b, c in zip(*(np.split(y, heads, axis=-1) for y in (q, k, v)), strict=True)
        ]
        return linear(np.concatenate(each, -1), f"{name}.proj")

    x = x.double().numpy()
    rows, columns = x.shape[1] // patch, x.shape[2] // patch
    squares = x.reshape(3, rows, patch, columns, patch).transpose(1, 3, 0, 2, 4)
    kernel = w["patch_embed.proj.weight"].reshape(-1, 3 * patch**2)
    tokens = squares.reshape(rows * columns, -1) @ kernel.T + w["patch_embed.proj.bias"]
    x = np.concatenate([w["cls_token"][0], tokens]) + w["pos_embed"][0]
    if "register_tokens" in w:
        x = np.concatenate([x, w["register_tokens"][0]])
    for i in range(2):
        name = f"blocks.{i}"
        one, two = (w.get(f"{name}.ls{k}.gamma", 1) for k in (1, 2))
        x = x + one * attended(norm(x, f"{name}.norm1"), f"{name}.attn")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x = x + two * linear(hidden, f"{name}.mlp.fc2")
    return norm(x[0], "norm")


@pytest.mark.parametrize("sizes", [{}, {"scaled": True, "registers": 3}])
def test_the_class_token_is_that_of_the_papers(sizes):
    w = weights(**sizes, grid=3, heads=4)
    network = VisionTransformer(Sizes(**{**vars(SIZES), **sizes, "grid": 3, "heads": 4}))
    network.load_state_dict(w)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    known = transformer(w, x[0], heads=4, patch=8)
    assert network(x)[0].detach().numpy() == pytest.approx(known, abs=1e-4)  # float32


def test_features_are_of_the_resized_and_normalised_image(tmp_path):
    w = weights()
    found = dino.load(stored(tmp_path, w))
    flat = torch.tensor([0.2, -0.4, 0.6])  # resizing does not change it
    image = flat[:, None, None].expand(3, 50, 50)[None]
    level = ((flat + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    known = transformer(w, level[:, None, None].expand(3, 224, 224), heads=1, patch=8)
    assert found.features(image)[0].numpy() == pytest.approx(known, abs=1e-3)
    assert found.name.startswith("DINO ViT 64/8 ")


def test_sides_are_224_and_a_multiple_of_the_patch():
    assert dino.resized(480, 640, 14) == (224, 294)
    assert dino.resized(640, 480, 16) == (304, 224)  # 298.7 is 18.7 patches
    assert dino.resized(20, 80, 14) == (224, 896)
    with pytest.raises(InputError, match="81x20 pixels are more than 4 times as long as wide"):
        dino.resized(20, 81, 14)


def test_cosine_distance_is_its_definition():
    a, b = torch.tensor([1.0, 0, 0]), torch.tensor([2.0, 2, 0])
    assert cosine_distance(a, b) == pytest.approx(1 - math.cos(math.pi / 4))
    assert cosine_distance(b, a) == cosine_distance(a, b)
    assert cosine_distance(b, 3 * b) == pytest.approx(0, abs=1e-15)
    assert cosine_distance(a, -a) == pytest.approx(2)


def hub(w, *, second):
    """Hugging Face's names, of ViTModel or of Dinov2Model, as their files have them."""
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens", "norm": "layernorm",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
    }  # fmt: skip
    inner = {"attn.proj": "attention.output.dense", "norm1": "layernorm_before",
             "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
             "mlp.fc2": "output.dense"}  # fmt: skip
    if second:
        inner = {ours: ours for ours in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
        inner |= {f"ls{k}.gamma": f"layer_scale{k}.lambda1" for k in (1, 2)}
        inner["attn.proj"] = "attention.output.dense"
    for i in (0, 1):
        names |= {f"blocks.{i}.{ours}": f"encoder.layer.{i}.{n}" for ours, n in inner.items()}
    found = {}
    for name, value in w.items():
        stem, _, last = name.rpartition(".")
        if stem.endswith("qkv"):
            before = names[stem.replace("qkv", "proj")].replace("output.dense", "attention.")
            for part, x in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{before}{part}.{last}"] = x.clone()
        else:
            found[names[name] if name in names else f"{names[stem]}.{last}"] = value
    return found


@pytest.mark.parametrize("second", [False, True])
def test_names_of_other_files_are_the_same_network(tmp_path, second):
    w = weights(**({"scaled": True, "registers": 2} if second else {}))
    known = dino.load(stored(tmp_path / "own", w))
    theirs = hub(w, second=second) | {"pooler.dense.bias": torch.zeros(64)}
    backbone = {f"backbone.{name}": value for name, value in w.items()}
    files = [
        stored(tmp_path / "hub", theirs),
        stored(tmp_path / "inner", {f"dinov2.{name}": value for name, value in theirs.items()}),
        stored(tmp_path / "backbone", backbone | {"head.mlp.0.bias": torch.zeros(3)}),
    ]
    for file in files:
        assert dino.load(file).name == known.name == dino.load(file.parent).name
    assert ("DINOv2" in known.name) == second
    config = {"num_attention_heads": 4, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    sizes = dino.load(stored(tmp_path / "hub", theirs, config)).network.sizes
    assert (sizes.heads, sizes.eps) == (4, 1e-12)


def test_other_files_are_refused_in_a_sentence_that_names_the_tensors(tmp_path):
    w = weights()
    lacking = {name: x for name, x in w.items() if not name.startswith("blocks.1.mlp")}
    for tensors, config, message in (
        ({"a": torch.zeros(1)}, None, "has no patch_embed.proj.weight of 4 axes"),
        (w | {"patch_embed.proj.weight": torch.zeros(10**12, 0, 8, 8)}, None,
         "has no patch_embed.proj.weight of 4 axes"),
        (lacking, None, "missing: blocks.1.mlp.fc1.weight, blocks.1.mlp.fc1.bias and 2 more"),
        (w | {"blocks.0.mlp.w12.weight": torch.zeros(1)}, None,
         "2 blocks of 64 channels: surplus: blocks.0.mlp.w12.weight"),
        (w | {"pos_embed": torch.zeros(1, 12, 64)}, None,
         r"of another shape: pos_embed \(1, 12, 64\), expected \(1, 10, 64\)"),
        (w | {"patch_embed.proj.weight": torch.zeros(60, 3, 8, 8)}, None,
         "no ViT's; give its config"),
        (w | {"patch_embed.proj.weight": torch.zeros(64, 3, 1, 1)}, None, "patches of 1 pixels"),
        (hub(w, second=False), {"num_attention_heads": 5}, "and 5 heads are no ViT's"),
        (hub(w, second=False), {"num_attention_heads": 1e9}, "a whole number"),
        (hub(w, second=False), {"hidden_act": "relu"}, "hidden_act: expected 'gelu', got 'relu'"),
        (hub(w, second=False), [], "expected a mapping"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as caught:
            dino.load(stored(tmp_path, tensors, config))
        assert "\n" not in str(caught.value)
        (tmp_path / "config.json").unlink(missing_ok=True)
    stored(tmp_path, hub(w, second=False), {"num_attention_heads": 1})
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(InputError, match=r"image_mean: expected \[0.485, .*got \[0.5"):
        dino.load(tmp_path)
    torch.save(w, tmp_path / "dino.pth")
    with pytest.raises(InputError, match="not read, since reading them can run code"):
        dino.load(tmp_path / "dino.pth")
