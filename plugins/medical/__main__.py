"""``polymode medical``: commands for scans; ``python -m plugins.medical`` too."""

from core.commands import domain, run_app
from plugins.medical.commands.reconstruct import reconstruct_ct, reconstruct_mri
from plugins.medical.commands.scans import evaluate, info, simulate, train_prior

app = domain(
    "CT and MRI from few measurements, with the uncertainty of the result. Not a medical device.",
    info, train_prior, simulate, reconstruct_ct, reconstruct_mri, evaluate,
)  # fmt: skip

if __name__ == "__main__":
    run_app(app)
