"""The pairwise term: what two neighbours pay for moving differently, and its min-convolution, which
is what a message costs.

theta(d, e) = min(weight |d - e|^2 / length, truncation), d and e in mm and length that of the edge
in mm. A quadratic is separable, so the minimum over all labels is taken an axis at a time;
truncated, it is the lesser of that and the least cost of all plus the truncation (Felzenszwalb and
Huttenlocher, IJCV 2006).
"""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphreg.graph import Graph
from graphreg.labels import Labels, along_axes
from inrreg.core.errors import InputError
from inrreg.ops.min_convolution import min_convolution


@dataclass(frozen=True)
class Quadratic:
    """weight |d - e|^2 / length, in units of the cost, no more than ``truncation`` where that is
    given.

    ``window`` forbids neighbours to differ by more than so many steps along an axis, which bounds
    the time; without it the min-convolution is exact, and leaves out only what cannot be the
    minimum.

    Raises:
        InputError: a weight or truncation below 0, or a window below 1.
    """

    weight: float = 0.1
    truncation: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if (
            self.weight < 0
            or (self.truncation is not None and self.truncation < 0)
            or (self.window is not None and self.window < 1)
        ):
            raise InputError(
                "a pairwise term needs a weight and a truncation of 0 or more and a window of 1 or"
                f" more, got {self.weight:g}, {self.truncation} and {self.window}"
            )

    def message(
        self, belief: Float[Tensor, "m *labels"], lengths: Float[Tensor, " m"], labels: Labels
    ) -> Float[Tensor, "m *labels"]:
        """min over d of belief(d) + theta(d, e), for every e and every one of m edges."""
        steps = torch.tensor(
            labels.steps(belief.ndim - 1), dtype=lengths.dtype, device=lengths.device
        )
        prices = (self.weight / lengths)[:, None] * steps.square()
        truncation = inf if self.truncation is None else self.truncation
        return min_convolution(belief, prices.to(belief.dtype), truncation, self.window)

    def cost(
        self, d: Float[Tensor, "m d"], e: Float[Tensor, "m d"], lengths: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """theta of displacements in mm; infinite beyond the window is not said here."""
        paid = self.weight * (d - e).square().sum(-1) / lengths
        return paid if self.truncation is None else paid.clamp(max=self.truncation)


def displacement_of(
    labelling: Int[Tensor, " n"], labels: Labels, shape: tuple[int, ...]
) -> Float[Tensor, "n d"]:
    """Displacement along the index axes, mm, of flat label numbers."""
    index = torch.stack(along_axes(labelling, shape), -1)
    centre = torch.tensor([n // 2 for n in shape], device=labelling.device)
    return (index - centre) * torch.tensor(labels.steps(len(shape)), device=labelling.device)


def energy(
    costs: Float[Tensor, "n *labels"],
    graph: Graph,
    labels: Labels,
    pairwise: Quadratic,
    labelling: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """What a labelling (flat label numbers) pays: its costs, and the pairwise term of every
    edge.
    """
    displacement = displacement_of(labelling, labels, tuple(costs.shape[1:]))
    a, b = graph.edges.unbind(1)
    data = costs.flatten(1).gather(1, labelling[:, None]).sum()
    return data + pairwise.cost(displacement[a], displacement[b], graph.lengths).sum()
