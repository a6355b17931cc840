"""Methods that a task compares: baselines, one draw, the mean of draws, each with its kind."""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Shaped
from torch import Tensor

from core.task import Kind, Method

ONE = "one sample"
"""The name of one draw among methods."""


def name_of_mean(draws: int) -> str:
    """The name of the mean of so many draws among methods."""
    return f"mean of {draws}"


def outputs(
    baselines: Mapping[str, Float[Tensor, " b *shape"]], results: Float[Tensor, " b k *shape"]
) -> dict[str, tuple[Kind, Float[Tensor, " b *shape"]]]:
    """Kind and output of each method: the baselines, the first draw, the mean if there are several.

    Args:
        baselines: outputs of methods without the model, by name.
        results: draws of each item.
    """
    found: dict[str, tuple[Kind, Tensor]] = {
        name: ("baseline", output) for name, output in baselines.items()
    }
    found[ONE] = "draw", results[:, 0]
    if results.shape[1] > 1:
        first = results[:, :1]  # values in which all draws agree keep their bits
        found[name_of_mean(results.shape[1])] = "mean", first[:, 0] + (results - first).mean(1)
    return found


def scores(
    compared: Mapping[str, tuple[Kind, Float[Tensor, " b *shape"]]],
    figures_of: Callable[[Float[Tensor, " b *shape"]], Mapping[str, Shaped[Tensor, "..."]]],
) -> dict[str, Method]:
    """The figures of each method's output, with its kind."""
    return {name: Method(kind, figures_of(output)) for name, (kind, output) in compared.items()}
