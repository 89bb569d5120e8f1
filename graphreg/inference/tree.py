"""Exact min-sum on a tree: one sweep from the leaves to the root, one back (Pearl, 1982;
Felzenszwalb and Huttenlocher, IJCV 2005).
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphreg.graph import Graph, sparse_matrix
from graphreg.inference.pairwise import Quadratic, displacement_of
from graphreg.labels import Labels
from inrreg.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Rooted:
    """A tree from its middle outwards: ``levels`` hold the nodes at each depth, ``parent`` and
    ``length`` tell of each node its parent and the edge to it (the root is its own).
    """

    levels: list[Tensor]
    parent: Int[Tensor, " n"]
    length: Float[Tensor, " n"]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Rooted in the middle of its longest way, so that the sweeps are short.

        Raises:
            InputError: the graph is no tree.
        """
        if not graph.is_tree:
            raise InputError(
                f"exact inference needs a tree, and this graph of {graph.n} nodes has"
                f" {len(graph.edges)} edges in {graph.n_components} parts; take its SpanningTree,"
                " join its parts, or use LoopyMinSum"
            )
        if graph.n == 1:
            return cls(
                [torch.zeros(1, dtype=torch.long)], torch.zeros(1, dtype=torch.long), torch.ones(1)
            )
        from scipy.sparse.csgraph import breadth_first_order

        matrix = sparse_matrix(graph)
        order, before = breadth_first_order(
            matrix, breadth_first_order(matrix, 0, directed=False)[0][-1], directed=False
        )
        way = [order[-1]]
        while before[way[-1]] >= 0:
            way.append(before[way[-1]])
        order, parent = breadth_first_order(matrix, way[len(way) // 2], directed=False)
        parent[order[0]] = order[0]
        depth = np.zeros(graph.n, dtype=int)
        for node in order[1:]:
            depth[node] = depth[parent[node]] + 1
        lengths = torch.ones(graph.n)
        child = np.where(
            parent[graph.edges[:, 0].cpu()] == graph.edges[:, 1].cpu().numpy(),
            graph.edges[:, 0].cpu(),
            graph.edges[:, 1].cpu(),
        )
        lengths[torch.from_numpy(child)] = graph.lengths.cpu()
        device = graph.edges.device
        levels = [
            torch.from_numpy(np.flatnonzero(depth == level)).to(device)
            for level in range(depth.max() + 1)
        ]
        return cls(levels, torch.from_numpy(parent).long().to(device), lengths.to(device))


@dataclass(frozen=True)
class TreeMinSum:
    """Min-marginals on a tree: for each node and label the least energy of any labelling that gives
    the node this label, less the least of all.

    Raises:
        InputError: when called, on a graph that is no tree.
    """

    pairwise: Quadratic = field(default_factory=Quadratic)

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]:
        tree = Rooted.of(graph)
        marginals, upward = self._collect(costs, tree, labels)
        for level in tree.levels[1:]:
            without = marginals[tree.parent[level]] - upward[level]
            marginals.index_add_(
                0, level, self.pairwise.message(without, tree.length[level], labels)
            )
        return marginals.sub_(_least(marginals))

    def best(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Int[Tensor, " n"]:
        """The labelling of least energy, as flat label numbers."""
        tree, shape = Rooted.of(graph), tuple(costs.shape[1:])
        below, _ = self._collect(costs, tree, labels)
        everything = torch.arange(below[0].numel(), device=costs.device)
        displacement = displacement_of(everything, labels, shape)
        labelling = torch.zeros(graph.n, dtype=torch.long, device=costs.device)
        labelling[tree.levels[0]] = below[tree.levels[0]].flatten(1).argmin(1)
        for level in tree.levels[1:]:
            above = displacement_of(labelling[tree.parent[level]], labels, shape)
            price = torch.stack(
                [
                    self.pairwise.cost(
                        displacement, d.expand_as(displacement), length.expand(len(displacement))
                    )
                    for d, length in zip(above, tree.length[level], strict=True)
                ]
            )
            labelling[level] = (below[level].flatten(1) + price).argmin(1)
        return labelling

    def _collect(self, costs: Tensor, tree: Rooted, labels: Labels) -> tuple[Tensor, Tensor]:
        """Leaves to root: each node's cost with all that its children say, and what each node says
        to its parent.
        """
        belief, upward = costs.clone(), torch.zeros_like(costs)
        for level in reversed(tree.levels[1:]):
            said = self.pairwise.message(belief[level], tree.length[level], labels)
            said -= _least(said)
            upward[level] = said
            belief.index_add_(0, tree.parent[level], said)
        return belief, upward


def _least(values: Float[Tensor, "n *labels"]) -> Tensor:
    return values.flatten(1).amin(1).reshape(-1, *(1,) * (values.ndim - 1))
