"""Mean field: every keypoint sees its neighbours as clouds of labels.

For a quadratic pairwise term only their means count, so a step costs no message at all.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from graphreg.graph import Graph
from graphreg.inference.marginals import probabilities, soft_argmin
from graphreg.inference.pairwise import Quadratic
from graphreg.labels import Labels, lattice
from inrreg.core.errors import InputError


@dataclass(frozen=True)
class MeanField:
    """q(d) in proportion to exp(-(cost(d) + sum over neighbours of weight E|d - e|^2 / length) /
    temperature), ``iterations`` times, mixed with ``damping`` of the means before.

    E|d - e|^2 is |d - mean e|^2 and a constant that changes nothing. The sum is taken under a
    temperature that falls from ``heat`` times itself to itself, so that far labels are given up
    late.

    Raises:
        InputError: a pairwise term that is truncated, of which more than the mean would count.
    """

    pairwise: Quadratic = field(default_factory=Quadratic)
    temperature: float = 0.01
    iterations: int = 30
    damping: float = 0.5
    heat: float = 8.0

    def __post_init__(self) -> None:
        if self.pairwise.truncation is not None or self.pairwise.window is not None:
            raise InputError(
                "mean field takes a quadratic pairwise term without truncation or window; use"
                " LoopyMinSum for those"
            )

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]:
        ndim = costs.ndim - 1
        d = lattice([n // 2 for n in costs.shape[1:]], labels.steps(ndim)).to(costs)
        a, b = graph.edges.unbind(1)
        weights = (self.pairwise.weight / graph.lengths).to(costs)[:, None]
        total = costs.new_zeros(graph.n, 1).index_add(0, a, weights).index_add(0, b, weights)
        means = soft_argmin(probabilities(costs, self.heat * self.temperature), labels)
        field_costs = costs
        for iteration in range(self.iterations):
            cooling = self.heat ** (1 - (iteration + 1) / self.iterations)
            pull = (
                torch.zeros_like(means)
                .index_add(0, a, weights * means[b])
                .index_add(0, b, weights * means[a])
            )
            squares = (total.reshape(-1, *(1,) * ndim) * d.square().sum(-1)) - 2 * torch.einsum(
                "nd,...d->n...", pull, d
            )
            field_costs = costs + squares
            means = self.damping * means + (1 - self.damping) * soft_argmin(
                probabilities(field_costs, cooling * self.temperature), labels
            )
        return field_costs - field_costs.flatten(1).amin(1).reshape(-1, *(1,) * ndim)
