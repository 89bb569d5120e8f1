"""Graphs of keypoints against brute force and networkx."""

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphreg import Graph, NearestNeighbours, SpanningTree, TreeMinSum, from_networkx, to_networkx
from graphreg.graph import joined
from graphreg.labels import Labels
from inrreg.core.errors import InputError


def cloud(
    count: int, ndim: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Points 100 mm off and intensities of 0 to 1."""
    drawn = torch.rand(count, ndim + 1, generator=torch.Generator().manual_seed(seed)).to(device)
    return 40 * drawn[:, :ndim] + 100, drawn[:, ndim]


def edge_set(graph: Graph) -> set[tuple[int, int]]:
    """Edges, the smaller end first; each must be there once."""
    edges = {(min(edge), max(edge)) for edge in graph.edges.tolist()}
    assert len(edges) == len(graph.edges)
    return edges


def complete(points: Tensor, intensities: Tensor, intensity_mm: float) -> networkx.Graph:
    """All pairs, with lengths from their definition."""
    lengths = (
        torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
        + intensity_mm * (intensities[:, None] - intensities[None]).abs().double()
    )
    return networkx.from_numpy_array(lengths.cpu().numpy())


@given(st.integers(0, 10**6), st.integers(2, 3), st.integers(1, 7))
def test_nearest_neighbours_equal_brute_force(seed: int, ndim: int, k: int) -> None:
    points, intensities = cloud(25, ndim, seed)
    distance = torch.cdist(
        points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).fill_diagonal_(torch.inf)
    nearest = distance.topk(k, largest=False).indices.tolist()
    graph = NearestNeighbours(k)(points, intensities)
    assert edge_set(graph) == {(min(i, j), max(i, j)) for i, row in enumerate(nearest) for j in row}
    # 1e-5 mm in single precision, 100 mm off
    torch.testing.assert_close(
        graph.lengths.double(), distance[tuple(graph.edges.T)], rtol=1e-5, atol=1e-4
    )


def test_an_edge_is_longer_between_unlike_intensities(device: torch.device) -> None:
    points, intensities = cloud(30, 3, 1, device)
    plain, weighted = (
        NearestNeighbours(5, intensity_mm=w)(points, intensities) for w in (0.0, 12.0)
    )
    assert plain.edges.device.type == plain.lengths.device.type == device.type
    assert torch.equal(plain.edges, weighted.edges)  # who is near is a matter of place alone
    a, b = plain.edges.T
    torch.testing.assert_close(
        weighted.lengths - plain.lengths,
        12 * (intensities[a] - intensities[b]).abs(),
        rtol=0,
        atol=1e-5,
    )


@given(st.integers(0, 10**6), st.integers(2, 3), st.sampled_from([0.0, 30.0]))
def test_the_spanning_tree_is_as_short_as_networkx_finds_it(
    seed: int, ndim: int, intensity_mm: float
) -> None:
    points, intensities = cloud(30, ndim, seed)
    tree = SpanningTree(k=32, intensity_mm=intensity_mm)(points, intensities)
    oracle = networkx.minimum_spanning_tree(complete(points, intensities, intensity_mm))
    assert tree.is_tree
    assert edge_set(tree) == {(min(edge), max(edge)) for edge in oracle.edges}
    assert float(tree.lengths.sum()) == pytest.approx(oracle.size("weight"), rel=1e-5)


def test_a_tree_of_few_neighbours_is_that_of_their_graph() -> None:
    points, intensities = cloud(200, 3, 3)
    near = NearestNeighbours(6, 20.0)(points, intensities)
    assert near.n_components == 1
    oracle = networkx.minimum_spanning_tree(to_networkx(near), weight="length")
    assert edge_set(SpanningTree(6, 20.0)(points, intensities)) == {
        (min(edge), max(edge)) for edge in oracle.edges
    }


@pytest.mark.parametrize("ndim", [2, 3])
def test_parts_far_apart_are_joined_by_the_shortest_link(ndim: int, device: torch.device) -> None:
    near, _ = cloud(30, ndim, 4, device)
    points = torch.cat(
        [
            near,
            near.flip(0) * 0.9 + 300,
            near + torch.tensor([0.0, 500.0, 0.0], device=device)[:ndim],
        ]
    )[torch.randperm(90, generator=torch.Generator().manual_seed(0)).to(device)]
    graph = NearestNeighbours(6)(points, points[:, 0])
    assert graph.n_components == 3
    assert not graph.is_tree
    one = joined(graph, points, points[:, 0])
    assert one.n_components == 1
    assert edge_set(graph) < edge_set(one)
    assert len(one.edges) == len(graph.edges) + 2
    tree = SpanningTree(6)(points, points[:, 0])
    oracle = networkx.minimum_spanning_tree(complete(points, points[:, 0], 0.0))
    assert tree.is_tree
    assert float(tree.lengths.sum()) == pytest.approx(oracle.size("weight"), rel=1e-5)


def test_coinciding_keypoints_make_no_edge_of_length_zero() -> None:
    points = torch.cat([cloud(6, 3, 5)[0]] * 2)
    tree = SpanningTree()(points, torch.zeros(12))
    assert tree.is_tree
    assert float(tree.lengths.min()) > 0
    assert {(i, i + 6) for i in range(6)} < edge_set(tree)


def test_one_and_two_keypoints_are_trees() -> None:
    for count in (1, 2):
        tree = SpanningTree()(*cloud(count, 2, 0))
        assert tree.is_tree
        assert tree.edges.shape == (count - 1, 2)


def test_there_and_back_by_networkx() -> None:
    points, intensities = cloud(20, 3, 6)
    graph = NearestNeighbours(3, 5.0)(points, intensities)
    public = to_networkx(graph, points)
    assert type(public) is networkx.Graph
    assert list(public.nodes) == list(range(20))
    np.testing.assert_allclose([public.nodes[i]["position"] for i in range(20)], points)
    again = from_networkx(public)
    assert again.n == 20
    assert {
        (min(e), max(e)): length
        for e, length in zip(again.edges.tolist(), again.lengths.tolist(), strict=True)
    } == {
        (min(e), max(e)): length
        for e, length in zip(graph.edges.tolist(), graph.lengths.tolist(), strict=True)
    }


def test_networkx_graphs_without_lengths_or_edges() -> None:
    star = from_networkx(networkx.star_graph(4))
    assert star.is_tree
    assert torch.equal(star.lengths, torch.ones(4))
    alone = from_networkx(networkx.empty_graph(3))
    assert (alone.n, alone.n_components, alone.is_tree) == (3, 3, False)
    assert not from_networkx(networkx.cycle_graph(4)).is_tree


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan")])
def test_lengths_that_are_none_are_refused(length: float) -> None:
    graph = networkx.path_graph(3)
    graph.edges[0, 1]["length"] = length
    with pytest.raises(InputError, match="lengths above 0"):
        from_networkx(graph)


@pytest.mark.parametrize(
    "nodes",
    [networkx.DiGraph([(0, 1)]), networkx.Graph([(1, 2)]), networkx.Graph([("a", "b")])],
    ids=["directed", "from one", "names"],
)
def test_other_graphs_are_refused(nodes: networkx.Graph) -> None:
    with pytest.raises(
        InputError, match=r"undirected with nodes 0 to 1.*convert_node_labels_to_integers"
    ):
        from_networkx(nodes)


def test_an_edge_to_itself_is_refused() -> None:
    with pytest.raises(InputError, match="between two different nodes"):
        from_networkx(networkx.Graph([(0, 1), (1, 1)]))


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(
        InputError, match="NearestNeighbours: k must be a whole number of 1 or more"
    ):
        NearestNeighbours(0)


@pytest.mark.parametrize("k", [5, 9])
def test_too_few_keypoints_are_refused(k: int) -> None:
    with pytest.raises(
        InputError, match=rf"{k} nearest neighbours need more than {k} keypoints, got 5"
    ):
        NearestNeighbours(k)(*cloud(5, 3, 0))
    with pytest.raises(InputError, match="at least one keypoint"):
        SpanningTree()(*cloud(0, 3, 0))


def test_parts_that_do_not_hang_together_have_no_exact_inference() -> None:
    points = torch.cat([cloud(8, 2, 1)[0], cloud(8, 2, 1)[0] + 400])
    graph = NearestNeighbours(3)(points, torch.zeros(16))
    with pytest.raises(
        InputError,
        match=r"16 nodes has \d+ edges in 2 parts; take its SpanningTree, join its parts",
    ):
        TreeMinSum()(torch.rand(16, 3, 3), graph, Labels(1.0, 1.0))
    assert TreeMinSum()(
        torch.rand(16, 3, 3), SpanningTree(3)(points, torch.zeros(16)), Labels(1.0, 1.0)
    ).shape == (16, 3, 3)
