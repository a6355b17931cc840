"""``python -m plugins.medical``: what a user with scans would say."""

from typing import NoReturn

import typer

from core.cli import run_app
from plugins.medical.commands import evaluate, info, simulate, train_prior
from plugins.medical.reconstruct_commands import reconstruct_ct, reconstruct_mri

app = typer.Typer(
    help="CT and MRI from few measurements, with what is not certain. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _verbs() -> None:
    """CT and MRI from few measurements, with what is not certain. Not a medical device."""


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
