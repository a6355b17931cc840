"""Processes and samples that tests of several solvers compare."""

from core.process import schedules

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
    "shifted": schedules.shifted(factor=3.0),
    "zero_snr": schedules.zero_terminal_snr(),
}
