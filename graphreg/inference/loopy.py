"""Min-sum on any graph: messages go round until they settle, which on a tree is exact and elsewhere
good (Weiss and Freeman, IEEE Trans. Information Theory 2001).
"""

import logging
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphreg.graph import Graph
from graphreg.inference.pairwise import Quadratic, energy
from graphreg.labels import Labels
from inrreg.core.settings_checks import check_count, check_fraction, check_not_negative

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopyMinSum:
    """All messages at once, ``iterations`` times or until none changes by more than ``tolerance``,
    each mixed with ``damping`` of what it was.

    There is a message, a volume of labels, for each end of an edge: mind the memory."""

    pairwise: Quadratic = field(default_factory=Quadratic)
    iterations: int = 10
    damping: float = 0.3
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_count(self, "iterations")
        check_fraction(self, "damping")
        check_not_negative(self, "tolerance")

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]:
        """The beliefs of the iteration whose labelling has the least energy."""
        return self.run(costs, graph, labels)[0]

    def best(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Int[Tensor, " n"]:
        """The labelling of least energy that was met, as flat label numbers."""
        return self.run(costs, graph, labels)[1]

    def run(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> tuple[Float[Tensor, "n *labels"], Int[Tensor, " n"]]:
        """Beliefs, and the labelling decoded from them."""
        source, target = torch.cat([graph.edges, graph.edges.flip(1)]).T
        lengths, m = graph.lengths.repeat(2), len(graph.edges)
        messages = costs.new_zeros(2 * m, *costs.shape[1:])
        belief = costs.clone()
        labelling = belief.flatten(1).argmin(1)
        best = belief, labelling, energy(costs, graph, labels, self.pairwise, labelling)
        for iteration in range(self.iterations):
            said = self.pairwise.message(belief[source] - messages.roll(m, 0), lengths, labels)
            said -= said.flatten(1).amin(1).reshape(-1, *(1,) * (costs.ndim - 1))
            said.lerp_(messages, self.damping)
            change = float((said - messages).abs().max()) if m else 0.0
            messages = said
            belief = costs.index_add(0, target, messages)
            labelling = belief.flatten(1).argmin(1)
            paid = energy(costs, graph, labels, self.pairwise, labelling)
            if paid <= best[2]:
                best = belief, labelling, paid
            if change <= self.tolerance:
                log.info("messages settled after %d iterations", iteration + 1)
                break
        return best[0], best[1]
