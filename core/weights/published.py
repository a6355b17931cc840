"""Flags of published checkpoints, by the names of their files.

Source: the READMEs of openai/guided-diffusion and openai/improved-diffusion; for ffhq,
scripts/ddpm/train_interpreter.sh of yandex-research/ddpm-segmentation.
"""

from core.weights.flags import GUIDED, IMPROVED

_SCALED = "--resblock_updown True --use_fp16 True --use_scale_shift_norm True"
_LSUN = (
    "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --dropout 0.1 "
    "--image_size 256 --learn_sigma True --noise_schedule linear --num_channels 256 "
    f"--num_head_channels 64 --num_res_blocks 2 {_SCALED}"
)
_PLAIN = "--rescale_learned_sigmas False --rescale_timesteps False"
_UNCONDITIONAL = "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True"
_CIFAR = "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3"
_BEDROOM = (
    "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True "
    "--use_scale_shift_norm False --attention_resolutions 16 --diffusion_steps 1000 "
    f"--noise_schedule linear {_PLAIN}"
)
_COSINE = "--diffusion_steps 4000 --noise_schedule cosine"


def _imagenet(side: int, *, conditional: bool, heads: str) -> str:
    return (
        f"--attention_resolutions 32,16,8 --class_cond {conditional} --diffusion_steps 1000 "
        f"--image_size {side} --learn_sigma True --noise_schedule linear --num_channels 256 "
        f"{heads} --num_res_blocks 2 {_SCALED}"
    )


def _upsampler(large: int, small: int, rest: str) -> str:
    return (
        f"{rest} --class_cond True --diffusion_steps 1000 --large_size {large} "
        f"--small_size {small} --learn_sigma True --noise_schedule linear --num_channels 192 "
        f"--num_res_blocks 2 {_SCALED}"
    )


# Name of the file without its suffix -> the package that made it, and its flags.
PUBLISHED: dict[str, tuple[str, str]] = {
    "64x64_diffusion": (
        GUIDED,
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 "
        "--image_size 64 --learn_sigma True --noise_schedule cosine --num_channels 192 "
        "--num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True " + _SCALED,
    ),
    "128x128_diffusion": (GUIDED, _imagenet(128, conditional=True, heads="--num_heads 4")),
    "256x256_diffusion": (GUIDED, _imagenet(256, conditional=True, heads="--num_head_channels 64")),
    "256x256_diffusion_uncond": (
        GUIDED,
        _imagenet(256, conditional=False, heads="--num_head_channels 64"),
    ),
    "512x512_diffusion": (GUIDED, _imagenet(512, conditional=True, heads="--num_head_channels 64")),
    "64_256_upsampler": (
        GUIDED,
        _upsampler(256, 64, "--attention_resolutions 32,16,8 --num_heads 4"),
    ),
    "128_512_upsampler": (
        GUIDED,
        _upsampler(512, 128, "--attention_resolutions 32,16 --num_head_channels 64"),
    ),
    "lsun_bedroom": (GUIDED, _LSUN),
    "lsun_cat": (GUIDED, _LSUN),
    "lsun_horse": (GUIDED, _LSUN),
    "lsun_horse_nodropout": (GUIDED, _LSUN.replace("--dropout 0.1", "--dropout 0.0")),
    "ffhq": (GUIDED, _LSUN),
    "imagenet64_uncond_100M_1500K": (IMPROVED, f"{_UNCONDITIONAL} {_COSINE}"),
    "cifar10_uncond_50M_500K": (IMPROVED, f"{_CIFAR} {_COSINE}"),
    "imagenet64_cond_270M_250K": (
        IMPROVED,
        "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True "
        f"--class_cond True {_COSINE} {_PLAIN}",
    ),
    "upsample_cond_500K": (
        IMPROVED,
        "--large_size 256 --small_size 64 --num_channels 192 --num_res_blocks 2 "
        "--learn_sigma True --class_cond True --diffusion_steps 4000 --noise_schedule linear "
        + _PLAIN,
    ),
    "lsun_uncond_100M_1200K_bs128": (IMPROVED, _BEDROOM),
    "lsun_uncond_100M_2400K_bs64": (IMPROVED, _BEDROOM),
    "imagenet64_uncond_vlb_100M_1500K": (IMPROVED, f"{_UNCONDITIONAL} {_COSINE}"),
    "cifar10_uncond_vlb_50M_500K": (IMPROVED, f"{_CIFAR} {_COSINE}"),
}
