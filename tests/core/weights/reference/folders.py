"""Configs of diffusers' folders that references and live tests share, narrowed."""

# As UNet2DModel is by default.
DEFAULT = {
    "sample_size": 32,
    "block_out_channels": [32, 64, 96, 128],
}
# As google/ddpm-cifar10-32 and its family, from before 0.15: four resolutions, one head.
DDPM = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [32, 64, 64, 64],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# Everything that the others leave out: scale and shift, residual resampling, classes, grey,
# learned variances, widths that are no multiples, several heads.
RICH = {
    "sample_size": [16, 24],
    "in_channels": 1,
    "out_channels": 2,
    "attention_head_dim": 12,
    "block_out_channels": [24, 36, 60],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "layers_per_block": 1,
    "norm_num_groups": 12,
    "num_class_embeds": 10,
    "resnet_time_scale_shift": "scale_shift",
}
CHAINS = {
    "default": {"beta_schedule": "linear"},
    "ddpm": {"beta_schedule": "scaled_linear", "beta_end": 0.03, "variance_type": "fixed_large"},
    "rich": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "variance_type": "learned_range",
        "num_train_timesteps": 500,
    },
}
FOLDERS = {"default": DEFAULT, "ddpm": DDPM, "rich": RICH}
INDICES = (3, 310)
