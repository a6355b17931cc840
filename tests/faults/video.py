"""Faults in the plug-in of video."""

from faults.fault import video

FAULTS = (
    video("unet3d: neighbours weighed by the other gap", "networks",
          "torch.stack([F.pad(near, (1, 0)), F.pad(near, (0, 1))], -1)",
          "torch.stack([F.pad(near, (0, 1)), F.pad(near, (1, 0))], -1)",
          "test_networks", "neighbours"),
    video("unet3d: frames stay in the order given", "networks",
          "return _taken(found, order.argsort(dim=1))", "return found",
          "test_networks", "another_order"),
    video("unet3d: known frames at the noise's level", "networks",
          "return torch.where(whole, clean, level.expand_as(clean))",
          "return level.expand_as(clean)", "test_networks", "level_of_their_own"),
    video("motion: a box of half its size", "data/motion",
          "% (2 * room)", "% room", "data/test_motion", "elastic"),
    video("motion: the bounce starts at the frame's beginning", "data/motion",
          "            left -= step\n", "            left -= 1\n", "data/test_motion", "random"),
    video("given: sparse distances uniform", "tasks/given",
          "step = math.exp(random.uniform(0, math.log(most)))",
          "step = random.uniform(1, most)", "tasks/test_given", "log_uniform"),
    video("complete: the loss is over all frames", "tasks/complete",
          "(1 - mask).expand_as(clip))", "torch.ones_like(clip))",
          "tasks/test_complete", "loss"),
    video("classical: the blend is of indices, not of times", "tasks/classical",
          "fraction = ((times - start) / apart)", "fraction = ((times - start) / apart * 0 + 0.5)",
          "tasks/test_complete", "by_hand"),
    video("figures: all frames count", "tasks/complete",
          "pooled = measured.pooled_error(errors, unknown)",
          "pooled = measured.pooled_error(errors, unknown | known)",
          "tasks/test_complete", "known_error"),
)  # fmt: skip
