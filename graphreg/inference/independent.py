"""No regularisation: every keypoint for itself, the baseline of an inference."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from graphreg.graph import Graph
from graphreg.labels import Labels


@dataclass(frozen=True)
class Independent:
    """The costs themselves, whatever the neighbours say."""

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]:
        return costs
