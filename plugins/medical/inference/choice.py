"""Settings of a reconstruction chosen by measurements that were left out of it.

Every candidate is computed of the rest: the classical methods, and a few draws from each level.
The least expected square on what was left out decides the start, the level, and how classical
methods and the draws' mean are mixed; what the draws' spread lacks of it, the factor on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.inverse.heldout import (
    Drawn,
    HeldOut,
    Misfit,
    Mixture,
    alone,
    drawn_of,
    improves,
    misfit_of,
    mixture,
    scale_of,
)
from core.inverse.measurement import Measurement
from core.model import Model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath
from core.progress import counter
from core.request import Emit, silent
from core.sampler.sample import Moment
from plugins.medical.inference.draws import How, reconstructed, streams
from plugins.medical.inference.spacing import Fit
from plugins.medical.inference.splits import split
from plugins.medical.request import LEVELS, RULE, SOLVER, PosteriorOptions
from plugins.medical.tasks.reconstruction import NOISE_ALONE, Reconstruction

CHOSEN = "held-out"  # the option that asks for it
START = "TV"  # the classical reconstruction that draws start from, where none is chosen
DRAWS = 2  # of each level
PARTS = (1.0, 0.5, 2.0)  # of the default level: levels to choose from, the default first
NOISY_END, MOST_STEPS = 80.0, 50  # of draws that start from noise
FEWEST = 3  # views or lines left out from which a level is chosen
FIRST = 1 << 20  # number of the first of them: none that is written
POSTERIOR = "posterior mean"  # its name beside those of the classical methods
NOTHING = "nothing: too little is measured"  # what was left out
NEGLIGIBLE = 0.01  # a smaller weight of a classical method is left out


@dataclass(frozen=True)
class Setting:
    """How draws are made from one level.

    Args:
        level: of the noise that is added to the start.
        grid: of the times, for the record.
        how: of a draw.
    """

    level: float
    grid: Spec
    how: How

    def fitting(self, fit: Fit, depth: int) -> "Setting":
        """The setting for the pixels of a volume of so many slices."""
        return replace(self, how=replace(self.how, condition=fit.condition(depth), grids=fit.grids))


def settings_of(
    process: GaussianPath,
    options: PosteriorOptions,
    level: float,
    steps: int,
    *,
    slices: int = 1,
) -> list[Setting]:
    """The settings to choose from, the default one first; one alone where a level is stated.

    From other levels the steps are as dense as from the default one.

    Args:
        process: of the prior.
        options: of the draws.
        level: the default one.
        steps: from the default level.
        slices: of which the prior learned stacks.
    """
    levels = [level * part for part in PARTS] if options.choose == CHOSEN else [level]
    if options.level is not None:
        levels = [options.level]
    elif options.start == NOISE_ALONE:
        levels = [NOISY_END]
    least, power = LEVELS.options["sigma_min"], 1 / LEVELS.options["rho"]

    def length(top: float) -> float:
        return max(top, 2 * least) ** power - least**power

    found = []
    for at in levels:
        dense = min(max(round(steps * length(at) / length(level)), 2), MOST_STEPS)
        named = {**LEVELS.options, "steps": options.steps or dense, "sigma_max": at}
        grid = Spec(LEVELS.name, named)
        how = How(
            method=configure("posterior", RULE),
            solver=configure("sampler", SOLVER)(),
            grid=configure("grid", grid)(process),
            along=options.along or 0.0,
            at_once=options.at_once,
            tile=options.tile,
            slices=slices,
        )
        found.append(Setting(at, grid, how))
    return found


@dataclass(frozen=True, eq=False)
class Choice:
    """Settings, mixture and scale that held-out measurements chose.

    Args:
        setting: of the draws that are written.
        start: classical reconstruction that they start from.
        weights: of the methods in the result, `POSTERIOR` among them; those of 0 are left out.
        scale: factor on the draws' standard deviation.
        about: what was left out.
        classical: misfit of each method without a prior.
        levels: misfit of the draws' mean from each level; none where nothing was left out.
        result: misfit of the mixture; None where nothing was left out.
    """

    setting: Setting
    start: str
    weights: Mapping[str, float]
    scale: float
    about: str
    classical: Mapping[str, Misfit]
    levels: Mapping[float, Misfit]
    result: Misfit | None

    @property
    def record(self) -> dict[str, Any]:
        """The choice as plain values."""

        def plain(misfit: Misfit) -> dict[str, float]:
            return {"mean": round(misfit.mean, 4), "standard_error": round(misfit.error, 4)}

        return {
            "left_out": self.about,
            "misfit": {
                **{name: plain(found) for name, found in self.classical.items()},
                **{f"{POSTERIOR} from {at:g}": plain(m) for at, m in self.levels.items()},
                **({} if self.result is None else {"result": plain(self.result)}),
            },
            "start": self.start,
            "level": self.setting.level,
            "weights": {name: round(weight, 4) for name, weight in self.weights.items()},
            "deviation_factor": round(self.scale, 4),
        }


def chosen(
    model: Model,
    measurement: Measurement,
    like: Float[Tensor, " b c h w"],
    settings: Sequence[Setting],
    *,
    start: str | None,
    draws: int,
    seed: int,
    emit: Emit = silent,
) -> Choice | None:
    """The choice for a volume; None where too little is measured to leave some of it out.

    Draws on coarser pixels than the scan's lack its finest detail, and have to prove themselves: by
    fewer than `FEWEST` units left out, or none, the result is the classical method alone.

    Args:
        model: a prior as the model of a reconstruction task.
        measurement: of all slices.
        like: their shape.
        settings: of the draws to choose from.
        start: name of the initial reconstruction; None to choose it.
        draws: number of draws of the mean that is written.
        seed: of what is left out, and of the draws.
        emit: receives progress.

    Raises:
        InputError: the task has no such start.
    """
    task = model.task
    assert isinstance(task, Reconstruction)
    held = split(measurement, like, seed)
    grids = settings[0].how.grids
    coarser = grids is not None and grids.coarser
    if held is None:
        sure = not coarser or start == NOISE_ALONE
        return None if sure else _unchecked(settings[0], start or START)
    if held.count < FEWEST:  # two views of ten misorder the levels by 1 dB
        settings = settings[:1]
    known = task.classical(held.kept)
    known |= task.variants(held.kept, known)
    rows = {name: held.residuals(x) for name, x in known.items()}
    squares = {name: r.square().sum(1) for name, r in rows.items()}
    begun = start or min(task.methods, key=lambda name: float(squares[name].mean()))
    first = task.begun(held.kept, known, begun, like)
    drawn = _drawn(model, held, [setting.how for setting in settings], first, draws, seed, emit)
    mixed = [mixture(list(rows.values()), one) for one in drawn]
    best = _lowest([one.squares for one in mixed], [one.level for one in settings])
    result, by_draws = mixed[best], _squares(drawn[best])
    safe = min(squares, key=lambda name: float(squares[name].mean()))
    # Draws that are worse alone would help where measurements are missing, which in the result they
    # are not.
    if (coarser and held.count < FEWEST) or improves(squares[safe], by_draws, errors=2.0):
        result = alone(len(rows) + 1, list(rows).index(safe), squares[safe])
    return Choice(
        settings[best],
        begun,
        _named(result, list(rows)),
        scale_of(result.squares, held.noise, drawn[best].variance),
        held.about,
        {name: misfit_of(square, held.noise) for name, square in squares.items()},
        {
            setting.level: misfit_of(_squares(one), held.noise)
            for setting, one in zip(settings, drawn, strict=True)
        },
        misfit_of(result.squares, held.noise),
    )


def _unchecked(setting: Setting, start: str) -> Choice:
    """A classical method alone, where nothing can be left out."""
    return Choice(setting, start, {start: 1.0}, 1.0, NOTHING, {}, {}, None)


def _squares(drawn: Drawn) -> Tensor:
    """Expected square of each unit's residual of the mean of `drawn.count` draws."""
    return drawn.rows.square().sum(1) + drawn.excess


def _lowest(squares: Sequence[Tensor], levels: Sequence[float]) -> int:
    """The lowest level whose squares are within a standard error of the least.

    Lower is nearer to the classical result and takes fewer steps; and what was left out is missing
    in the comparison alone, so that it asks for a little more of the prior than the result does.
    """
    least = min(squares, key=lambda one: float(one.mean()))
    rising = sorted(range(len(levels)), key=lambda k: levels[k])
    return next(k for k in rising if not improves(least, squares[k], errors=1.0))


def _drawn(
    model: Model,
    held: HeldOut,
    hows: Sequence[How],
    first: Tensor,
    draws: int,
    seed: int,
    emit: Emit,
) -> list[Drawn]:
    """Residuals of a few draws of each kind, without what was left out."""
    progress = counter(emit, DRAWS * sum(len(how.grid) - 1 for how in hows), "held-out step")
    done = 0

    def watch(moment: Moment) -> None:
        nonlocal done
        done += 1
        progress(done)

    def draw(how: How, number: int) -> Tensor:
        noise = streams(seed, range(len(first)), number)
        return reconstructed(model.denoise, held.kept, how, first, noise, watch=watch)

    numbers = range(FIRST, FIRST + DRAWS)
    return [drawn_of([held.residuals(draw(how, k)) for k in numbers], draws) for how in hows]


def _named(found: Mixture, names: Sequence[str]) -> dict[str, float]:
    """The weights by name, without negligible ones of classical methods."""
    weights = dict(zip([*names, POSTERIOR], found.weights, strict=True))
    kept = {name: w for name, w in weights.items() if w > NEGLIGIBLE}
    total = sum(kept.values())
    return {name: w / total for name, w in kept.items()}
