"""DINO's and DINOv2's transformers against transformers', LPIPS against the package lpips."""

import sys
import types
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.weights import dino
from plugins.image2image.evaluation import lpips

pytestmark = pytest.mark.parity
WITHIN = 1e-5  # float32; attention in another order


def hubs(kind, **options):
    transformers = pytest.importorskip("transformers", reason="the extra `parity` brings it")
    draw = torch.Generator().manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(**sizes, **options)
    network = getattr(transformers, f"{kind}Model")(config).eval()
    for value in network.parameters():  # none at zero or one, as many begin
        value.data = torch.randn(value.shape, generator=draw) * 0.2 + value.data.mean()
    return network


@pytest.mark.parametrize("side", [(4, 4), (3, 5), (6, 4)])
@pytest.mark.parametrize(
    ("kind", "patch", "options"),
    [
        ("ViT", 16, {"image_size": 64, "intermediate_size": 80, "add_pooling_layer": False}),
        ("Dinov2", 14, {"image_size": 56, "layerscale_value": 0.3}),
        ("Dinov2WithRegisters", 14, {"image_size": 56, "num_register_tokens": 3}),
    ],
)
def test_class_tokens(agree, tmp_path, kind, patch, options, side):
    options = {name: value for name, value in options.items() if name != "add_pooling_layer"}
    theirs = hubs(kind, patch_size=patch, **options)
    theirs.save_pretrained(tmp_path)
    ours = dino.load(tmp_path)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *(patch * n for n in side), generator=draw)
    interpolated = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    with torch.no_grad():
        known = theirs(x, **interpolated).last_hidden_state[:, 0]
        found = ours.network(x)
    known, found = known.double(), found.double()
    agree(f"`VisionTransformer` and transformers' {kind}Model", f"{side[0]}x{side[1]} patches",
          found, known, WITHIN)  # fmt: skip


@pytest.fixture
def package():
    """The package, with a stand-in for torchvision: its AlexNet and VGG16 with random weights."""

    def alexnet(**_):
        of = nn.Conv2d, nn.ReLU
        pool = nn.MaxPool2d(3, 2)
        layers = [
            *(of[0](3, 64, 11, 4, 2), of[1](), pool),
            *(of[0](64, 192, 5, padding=2), of[1](), pool),
            *(of[0](192, 384, 3, padding=1), of[1]()),
            *(of[0](384, 256, 3, padding=1), of[1]()),
            *(of[0](256, 256, 3, padding=1), of[1](), pool),
        ]
        return types.SimpleNamespace(features=nn.Sequential(*layers))

    def vgg16(**_):
        layers, given = [], 3
        for count, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(count):
                layers += [nn.Conv2d(given, width, 3, padding=1), nn.ReLU()]
                given = width
            layers.append(nn.MaxPool2d(2, 2))
        return types.SimpleNamespace(features=nn.Sequential(*layers))

    vision = types.ModuleType("torchvision")
    vision.models = types.SimpleNamespace(alexnet=alexnet, vgg16=vgg16)
    with mock.patch.dict(sys.modules, {"torchvision": vision}):
        yield pytest.importorskip("lpips", reason="`make parity` brings it")


@pytest.mark.parametrize("size", [(64, 64), (97, 150)])
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips(agree, tmp_path, package, net, size):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)  # theirs draws from the global stream
        theirs = package.LPIPS(pretrained=False, net=net, verbose=False).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(value.abs() if "lin" in name else 2 * value)
    stored = {name: value.clone() for name, value in theirs.state_dict().items()}
    save_file(stored, tmp_path / "lpips.safetensors")
    ours = lpips.load([tmp_path / "lpips.safetensors"])
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.rand(1, 3, *size, generator=draw) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        known = theirs(a, b).flatten().double()
    found = torch.tensor([ours.distance(a, b)], dtype=torch.float64)
    agree(f"`Lpips` and the package lpips, {net}", f"{size[1]}x{size[0]} pixels",
          found, known, WITHIN)  # fmt: skip
