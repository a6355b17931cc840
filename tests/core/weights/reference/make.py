"""Make the reference outputs here with the originals' own code.  See README.md beside this file.

    python make.py GUIDED IMPROVED SEGMENTATION [NAME ...]

GUIDED, IMPROVED and SEGMENTATION are checkouts of openai/guided-diffusion,
openai/improved-diffusion and yandex-research/ddpm-segmentation (without its submodules).
"""

import argparse
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from folders import CHAINS as CHAINS_OF_FOLDERS
from folders import FOLDERS
from folders import INDICES as INDICES_OF_FOLDERS
from recipe import numbers, weights

HERE = Path(__file__).parent
LSUN = (
    "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --dropout 0.1 "
    "--image_size 256 --learn_sigma True --noise_schedule linear --num_channels 32 "
    "--num_head_channels 64 --num_res_blocks 2 --resblock_updown True --use_fp16 False "
    "--use_scale_shift_norm True"
)
# Flags as the READMEs print them, but for narrower networks: name -> (package, flags, x, indices).
CASES = {
    "guided_conditional_64": (
        "guided_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 "
        "--image_size 64 --learn_sigma True --noise_schedule cosine --num_channels 32 "
        "--num_head_channels 32 --num_res_blocks 3 --resblock_updown True "
        "--use_new_attention_order True --use_fp16 False --use_scale_shift_norm True",
        (2, 3, 32, 32),
        (999, 40),
    ),
    "guided_unconditional_256": ("guided_diffusion", LSUN, (1, 3, 64, 64), (617,)),
    "guided_upsampler": (
        "guided_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --large_size 256 "
        "--small_size 64 --learn_sigma True --noise_schedule linear --num_channels 32 "
        "--num_heads 4 --num_res_blocks 2 --resblock_updown True --use_fp16 False "
        "--use_scale_shift_norm True",
        (1, 3, 64, 64),
        (3,),
    ),
    "improved_additive": (
        "improved_diffusion",
        "--image_size 64 --num_channels 32 --num_res_blocks 2 --num_heads 4 --learn_sigma False "
        "--use_scale_shift_norm False --attention_resolutions 16,8 --diffusion_steps 4000 "
        "--noise_schedule cosine",
        (2, 3, 32, 32),
        (0, 3001),
    ),
}
CHAINS = {
    "linear_1000": ("linear", 1000),
    "cosine_1000": ("cosine", 1000),
    "linear_4000": ("linear", 4000),
    "cosine_4000": ("cosine", 4000),
}
INDICES = (0, 1, 37, 500, -2, -1)  # of a chain; the last two counted from its end


def parts(package, flags):
    """The original's model and chain, from flags as its scripts read them."""
    scripts = importlib.import_module(f"{package}.script_util")
    larger = "sr_" if "large_size" in flags else ""
    defaults = getattr(scripts, f"{larger}model_and_diffusion_defaults")()
    parser = argparse.ArgumentParser()
    scripts.add_dict_to_argparser(parser, defaults)
    chosen = scripts.args_to_dict(parser.parse_args(flags.split()), defaults.keys())
    return getattr(scripts, f"{larger}create_model_and_diffusion")(**chosen)


def filled(model):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    made = {name: torch.from_numpy(value) for name, value in weights(shapes).items()}
    model.load_state_dict(made)
    return model.eval(), shapes, made


def write(name, about, **arrays):
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
    np.savez_compressed(HERE / f"{name}.npz", about=json.dumps(about), **arrays)
    print(name, {key: value.shape for key, value in arrays.items()})


@torch.no_grad()
def network(name, package, flags, shape, indices):
    """What the network says, and what the chain makes of it."""
    model, chain = parts(package, flags)
    model, shapes, _ = filled(model)
    x, t = torch.from_numpy(2 * numbers("x", shape)), torch.tensor(indices)
    given = {}
    if "label_emb.weight" in shapes:
        given["y"] = torch.tensor([7, 993][: len(x)])
    if "large_size" in flags:
        small = (*shape[:2], shape[2] // 4, shape[3] // 4)
        given["low_res"] = torch.from_numpy(numbers("low_res", small))
    said = chain._wrap_model(model)(x, t, **given)
    step = chain.p_mean_variance(model, x, t, clip_denoised=False, model_kwargs=given)
    about = {"flags": flags, "package": package, "shapes": shapes, "x": shape, "indices": indices}
    arrays = {"output": said}
    if name == "improved_additive":  # once, from end to end
        arrays |= {"mean": step["mean"], "x0": step["pred_xstart"]}
    write(name, about, **arrays)


@torch.no_grad()
def segmentation(checkout, guided):
    """Activations that the feature extractor takes from a checkpoint that it loads itself."""
    stubs = {name: types.ModuleType(name) for name in ("mpi4py", "blobfile")}
    world = types.SimpleNamespace(Get_rank=lambda: 0, bcast=lambda value: value)
    stubs["mpi4py"].MPI = types.SimpleNamespace(COMM_WORLD=world)
    stubs["blobfile"].BlobFile = open
    sys.modules.update(stubs)
    for name in [name for name in sys.modules if name.startswith("guided_diffusion")]:
        del sys.modules[name]
    outer = types.ModuleType("guided_diffusion")  # the submodule's folder
    outer.__path__ = [str(guided)]
    sys.modules["guided_diffusion"] = outer
    sys.path.insert(0, str(checkout))
    extractor = importlib.import_module("src.feature_extractors")
    scripts = importlib.import_module("guided_diffusion.guided_diffusion.script_util")
    parser = argparse.ArgumentParser()
    scripts.add_dict_to_argparser(parser, scripts.model_and_diffusion_defaults())
    options = vars(parser.parse_args(LSUN.split()))
    model, _ = scripts.create_model_and_diffusion(**options)
    _, shapes, made = filled(model)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(made, file.name)
        asked = {"steps": [50], "blocks": [5, 12], "input_activations": False}
        taken = extractor.FeatureExtractorDDPM(model_path=file.name, **asked, **options)
        x0, noise = (torch.from_numpy(numbers(key, (1, 3, 64, 64))) for key in ("x0", "noise"))
        five, twelve = taken(x0, noise=noise)
    about = {"flags": LSUN, "shapes": shapes, "x": x0.shape, "indices": [50]}
    write("segmentation", about, block_5=five, block_12=twelve[:, :, ::4, ::4])


def chains():
    """Means and log-variances of one step, from a stand-in that says eps and v."""
    gaussian = importlib.import_module("guided_diffusion.gaussian_diffusion")
    shape = (len(INDICES), 3, 2, 2)
    x, eps, v = (torch.from_numpy(numbers(key, shape)).double() for key in ("x", "eps", "v"))
    arrays, about = {}, {"x": shape, "indices": INDICES, "chains": CHAINS}
    for name, (schedule, steps) in CHAINS.items():
        for what, mean in (("eps", gaussian.ModelMeanType.EPSILON),
                           ("x0", gaussian.ModelMeanType.START_X)):  # fmt: skip
            chain = gaussian.GaussianDiffusion(
                betas=gaussian.get_named_beta_schedule(schedule, steps),
                model_mean_type=mean,
                model_var_type=gaussian.ModelVarType.LEARNED_RANGE,
                loss_type=gaussian.LossType.MSE,
            )
            t = torch.tensor([i % steps for i in INDICES])
            step = chain.p_mean_variance(
                lambda x, t: torch.cat([eps, v], dim=1), x, t, clip_denoised=False
            )
            arrays[f"{name}/{what}/mean"] = step["mean"]
            arrays[f"{name}/{what}/log_variance"] = step["log_variance"]
    write("chains", about, **arrays)


@torch.no_grad()
def diffusers_folder(name):
    """What a UNet2DModel says, and what its scheduler takes the clean sample to be."""
    library = importlib.import_module("diffusers")
    config, chain = FOLDERS[name], CHAINS_OF_FOLDERS[name]
    model = library.UNet2DModel(**config)
    model, shapes, _ = filled(model)
    scheduler = library.DDPMScheduler(clip_sample=False, **chain)
    side = config["sample_size"]
    shape = (2, model.config.in_channels, *([side, side] if isinstance(side, int) else side))
    x, t = torch.from_numpy(2 * numbers("x", shape)), torch.tensor(INDICES_OF_FOLDERS)
    labels = torch.tensor([2, 9]) if "num_class_embeds" in config else None
    said = model(x, t, class_labels=labels).sample
    steps = [scheduler.step(said[i : i + 1], t[i], x[i : i + 1]) for i in range(2)]
    x0 = torch.cat([step.pred_original_sample for step in steps])
    write(f"diffusers_{name}", {"shapes": shapes, "x": shape}, output=said, x0=x0)


def main():
    guided, improved, checkout = (Path(place).resolve() for place in sys.argv[1:4])
    sys.path[:0] = [str(guided), str(improved)]
    wanted = sys.argv[4:] or [
        *CASES,
        *(f"diffusers_{name}" for name in FOLDERS),
        "chains",
        "segmentation",
    ]
    for name, case in CASES.items():
        if name in wanted:
            network(name, *case)
    for name in FOLDERS:
        if f"diffusers_{name}" in wanted:
            diffusers_folder(name)
    if "chains" in wanted:
        chains()
    if "segmentation" in wanted:
        segmentation(checkout, guided)


if __name__ == "__main__":
    main()
