"""``polymode medical``: commands for scans; ``python -m plugins.medical`` too."""

from typing import NoReturn

from core.cli import commands, run_app
from plugins.medical.commands import evaluate, info, simulate, train_prior
from plugins.medical.reconstruct_commands import reconstruct_ct, reconstruct_mri

app = commands("CT and MRI from few measurements, with what is not certain. Not a medical device.")

app.command()(info)
app.command("train-prior")(train_prior)
app.command()(simulate)
app.command("reconstruct-ct")(reconstruct_ct)
app.command("reconstruct-mri")(reconstruct_mri)
app.command()(evaluate)


def main() -> NoReturn:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
