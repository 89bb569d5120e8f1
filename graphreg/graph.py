"""Graphs over keypoints: spanning trees and nearest neighbours, with networkx as interface."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.settings_checks import check_count, check_not_negative


@dataclass(frozen=True, eq=False)
class Graph:
    """Undirected graph over ``n`` nodes.

    ``edges`` ``[m, 2]`` holds each edge once. Each edge has a length, the distance of its
    ends. Longer edges couple their ends less.
    """

    n: int
    edges: Int[Tensor, "m 2"]
    lengths: Float[Tensor, " m"]

    def to(self, device: torch.device | str) -> "Graph":
        """The same graph on ``device``."""
        return Graph(self.n, self.edges.to(device), self.lengths.to(device))

    @property
    def n_components(self) -> int:
        """How many parts hang together."""
        return int(_components(self)[0])

    @property
    def is_tree(self) -> bool:
        """Whether every node is reached from every other by exactly one way."""
        return len(self.edges) == self.n - 1 and self.n_components == 1


class GraphBuilder(Protocol):
    """Builds a graph over keypoints ``[n, d]`` in mm.

    ``intensities`` ``[n]`` are the image intensities at the keypoints.
    """

    def __call__(self, points: Float[Tensor, "n d"], intensities: Float[Tensor, " n"]) -> Graph: ...


@dataclass(frozen=True)
class NearestNeighbours:
    """The symmetric graph of ``k`` nearest neighbours.

    Two points share an edge where either is among the other's neighbours.

    The length of an edge is the distance in mm plus ``intensity_mm`` times the difference of
    intensities: alike tissue moves alike.

    Raises:
        InputError: when called, with fewer points than neighbours.
    """

    k: int = 10
    intensity_mm: float = 0.0

    def __post_init__(self) -> None:
        check_count(self, "k")
        check_not_negative(self, "intensity_mm")

    def __call__(self, points: Float[Tensor, "n d"], intensities: Float[Tensor, " n"]) -> Graph:
        if self.k >= len(points):
            raise InputError(
                f"{self.k} nearest neighbours need more than {self.k} keypoints, got {len(points)};"
                " ask for fewer neighbours or more keypoints"
            )
        from scipy.spatial import KDTree

        coords = points.cpu().double().numpy()
        _, neighbour = KDTree(coords).query(coords, self.k + 1)
        pairs = np.stack([np.repeat(np.arange(len(coords)), self.k + 1), neighbour.reshape(-1)], 1)
        return _weighted(_unique(pairs, len(coords)), points, intensities, self.intensity_mm)


@dataclass(frozen=True)
class SpanningTree:
    """The minimum spanning tree of the ``k`` nearest-neighbour graph.

    Where that graph has several components (as two lungs may), the shortest edges connect them.

    Edge lengths as in ``NearestNeighbours``. A tree has no loops, so inference on it is exact.

    Raises:
        InputError: when called, with no point.
    """

    k: int = 32
    intensity_mm: float = 0.0

    def __post_init__(self) -> None:
        check_count(self, "k")
        check_not_negative(self, "intensity_mm")

    def __call__(self, points: Float[Tensor, "n d"], intensities: Float[Tensor, " n"]) -> Graph:
        if len(points) < 1:
            raise InputError("a tree needs at least one keypoint")
        if len(points) == 1:
            return Graph(1, torch.empty(0, 2, dtype=torch.long), torch.empty(0))
        graph = joined(
            NearestNeighbours(min(self.k, len(points) - 1), self.intensity_mm)(points, intensities),
            points,
            intensities,
            self.intensity_mm,
        )
        from scipy.sparse.csgraph import minimum_spanning_tree

        tree = minimum_spanning_tree(sparse_matrix(graph)).tocoo()
        return _weighted(np.stack([tree.row, tree.col], 1), points, intensities, self.intensity_mm)


def joined(
    graph: Graph,
    points: Float[Tensor, "n d"],
    intensities: Float[Tensor, " n"],
    intensity_mm: float = 0.0,
) -> Graph:
    """``graph`` with its parts joined into one, each time by the shortest link from the first part
    to any other.
    """
    from scipy.spatial import KDTree

    coords = points.cpu().double().numpy()
    edges = graph.edges.cpu().numpy()
    count, part = _components(graph)
    while count > 1:
        here, there = (part == 0).nonzero()[0], (part != 0).nonzero()[0]
        distance, nearest = (
            np.asarray(found) for found in KDTree(coords[here]).query(coords[there])
        )
        closest = int(distance.argmin())
        edges = np.concatenate([edges, [[here[nearest[closest]], there[closest]]]])
        part = np.where(part == part[there[closest]], 0, part)
        count -= 1
    return _weighted(edges, points, intensities, intensity_mm)


def to_networkx(graph: Graph, points: Float[Tensor, "n d"] | None = None) -> Any:
    """The graph as ``networkx.Graph``.

    Edges have the attribute ``length``; nodes have ``position`` (mm) where ``points`` are given.
    """
    import networkx

    result = networkx.Graph()
    result.add_nodes_from(range(graph.n))
    if points is not None:
        networkx.set_node_attributes(
            result, {i: tuple(p) for i, p in enumerate(points.tolist())}, "position"
        )
    result.add_weighted_edges_from(
        (
            (a, b, length)
            for (a, b), length in zip(graph.edges.tolist(), graph.lengths.tolist(), strict=True)
        ),
        weight="length",
    )
    return result


def from_networkx(graph: Any) -> Graph:
    """The graph of a ``networkx.Graph`` whose nodes are 0 ... n-1.

    Edges without the attribute ``length`` have length 1.

    Raises:
        InputError: directed, other nodes, an edge from a node to itself, or a length that is not
            above 0.
    """
    n = graph.number_of_nodes()
    if graph.is_directed() or set(graph.nodes) != set(range(n)):
        raise InputError(
            f"a keypoint graph is undirected with nodes 0 to {n - 1}, in the order of the"
            " keypoints; relabel it, for instance with networkx.convert_node_labels_to_integers"
        )
    rows = [
        (int(a), int(b), float(length)) for a, b, length in graph.edges(data="length", default=1.0)
    ]
    if any(a == b or not length > 0 for a, b, length in rows):
        raise InputError(
            "a keypoint graph has edges between two different nodes and lengths above 0"
        )
    edges = torch.tensor([row[:2] for row in rows], dtype=torch.long).reshape(-1, 2)
    return Graph(n, edges, torch.tensor([row[2] for row in rows], dtype=torch.float32))


def _unique(pairs: np.ndarray, n: int) -> np.ndarray:
    """Each undirected edge between ``n`` nodes once, without loops, in a fixed order."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    # one number an edge: sorted many times as fast as pairs
    return np.stack(divmod(np.unique(pairs.min(1) * n + pairs.max(1)), n), 1)


def _weighted(
    edges: np.ndarray,
    points: Float[Tensor, "n d"],
    intensities: Float[Tensor, " n"],
    intensity_mm: float,
) -> Graph:
    """The graph of ``edges`` with its lengths: never 0, for the ends of an edge may coincide."""
    index = torch.from_numpy(np.ascontiguousarray(edges)).long().to(points.device)
    a, b = index.unbind(1)
    lengths = (points[a] - points[b]).norm(dim=1) + intensity_mm * (
        intensities[a] - intensities[b]
    ).abs()
    return Graph(len(points), index, lengths.float().clamp(min=1e-3))


def sparse_matrix(graph: Graph) -> Any:
    """Lengths as a scipy sparse array, each edge once."""
    from scipy.sparse import coo_array

    a, b = graph.edges.cpu().numpy().T
    return coo_array(
        (graph.lengths.cpu().double().numpy(), (a, b)), shape=(graph.n, graph.n)
    ).tocsr()


def _components(graph: Graph) -> tuple[int, np.ndarray]:
    from scipy.sparse.csgraph import connected_components

    count, part = connected_components(sparse_matrix(graph), directed=False)
    return int(count), part
