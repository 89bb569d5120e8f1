"""Inference against the enumeration of every labelling: exact on every small tree, and on loops the
best that was met.
"""

from collections.abc import Iterator
from itertools import pairwise as neighbouring

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphreg import (
    Graph,
    Independent,
    Labels,
    LoopyMinSum,
    MeanField,
    Quadratic,
    SpanningTree,
    TreeMinSum,
)
from graphreg.inference import energy, probabilities, soft_argmin
from inrreg.core.errors import InputError

SHAPES = ((2, 2), (4, 1), (2, 1, 2))
"""Four labels: inference takes the number of labels an axis from the costs, so it need not be odd
as that of ``Labels`` is.
"""
STEPS = (1.5, 0.75, 2.0)
TREES = [tree for n in range(2, 8) for tree in networkx.nonisomorphic_trees(n)]
TERMS = {
    "loose": Quadratic(0.05),
    "tight": Quadratic(1.0),
    "truncated": Quadratic(1.0, truncation=0.4),
    "nothing": Quadratic(0.0),
}


def labels_of(shape: tuple[int, ...]) -> Labels:
    """Steps that differ along the axes."""
    return Labels(4.0, STEPS[: len(shape)])


def shuffled(graph: networkx.Graph, seed: int) -> Graph:
    """Nodes renamed, edges in any order and direction, lengths of 0.3 to 8 mm."""
    rng = np.random.default_rng(seed)
    name = rng.permutation(len(graph))
    edges = rng.permuted(
        [(name[a], name[b]) for a, b in rng.permutation(list(graph.edges))], axis=1
    )
    return Graph(
        len(graph),
        torch.from_numpy(edges),
        torch.from_numpy(rng.uniform(0.3, 8.0, len(edges))).float(),
    )


def random_costs(n: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(term: Quadratic, shape: tuple[int, ...], length: float) -> np.ndarray:
    """The pairwise term of every two labels, from its definition."""
    index = np.indices(shape).reshape(len(shape), -1).T
    apart = index[:, None] - index[None]
    theta = term.weight * ((apart * STEPS[: len(shape)]) ** 2).sum(-1) / length
    if term.window is not None:
        theta[np.abs(apart).max(-1) > term.window] = np.inf
    return np.minimum(theta, np.inf if term.truncation is None else term.truncation)


def all_energies(costs: torch.Tensor, graph: Graph, term: Quadratic) -> np.ndarray:
    """The energy of every labelling, one axis a node."""
    flat, shape = costs.flatten(1).numpy(), tuple(costs.shape[1:])
    total = np.zeros((flat.shape[1],) * graph.n)
    for node, cost in enumerate(flat):
        total = total + cost.reshape([-1 if a == node else 1 for a in range(graph.n)])
    for (a, b), length in zip(graph.edges.tolist(), graph.lengths.tolist(), strict=True):
        theta = table(term, shape, length)
        total = total + (theta if a < b else theta.T).reshape(
            [flat.shape[1] if node in (a, b) else 1 for node in range(graph.n)]
        )
    return total


def min_marginals(energies: np.ndarray) -> np.ndarray:
    """For every node and label the least energy of a labelling that has it, less the least of
    all.
    """
    axes = range(energies.ndim)
    return (
        np.stack([energies.min(axis=tuple(a for a in axes if a != node)) for node in axes])
        - energies.min()
    )


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("n", range(2, 8))
def test_every_small_tree_equals_brute_force(n: int, term: Quadratic, device: torch.device) -> None:
    for number, tree in enumerate(TREES):
        for shape in SHAPES if len(tree) == n else ():
            graph, costs, labels = (
                shuffled(tree, number),
                random_costs(n, shape, number),
                labels_of(shape),
            )
            energies = all_energies(costs, graph, term)
            on = costs.to(device), graph.to(device), labels
            marginals = TreeMinSum(term)(*on)
            assert marginals.shape == costs.shape
            # lengths are in single precision, energies about 10
            np.testing.assert_allclose(
                marginals.flatten(1).cpu(), min_marginals(energies), atol=1e-5
            )
            best = TreeMinSum(term).best(*on).cpu()
            assert energies[tuple(best.tolist())] == pytest.approx(energies.min(), abs=1e-5)
            assert float(energy(costs, graph, labels, term, best)) == pytest.approx(
                energies.min(), abs=1e-5
            )


def test_the_number_of_trees_is_right() -> None:
    # OEIS A000055
    assert [sum(len(tree) == n for tree in TREES) for n in range(2, 8)] == [1, 1, 2, 3, 6, 11]


@pytest.mark.parametrize("shape", [(4, 1), (3, 2)])
def test_a_window_forbids_what_lies_beyond_it(shape: tuple[int, ...]) -> None:
    term, within = Quadratic(0.02), Quadratic(0.02, window=1)
    binding = 0
    for seed, tree in enumerate(TREES[5:12]):
        graph, costs, labels = (
            shuffled(tree, seed),
            random_costs(len(tree), shape, seed),
            labels_of(shape),
        )
        free, windowed = (all_energies(costs, graph, t) for t in (term, within))
        np.testing.assert_allclose(
            TreeMinSum(within)(costs, graph, labels).flatten(1), min_marginals(windowed), atol=1e-5
        )
        decoded = float(
            energy(costs, graph, labels, within, TreeMinSum(within).best(costs, graph, labels))
        )
        assert free.min() - 1e-5 < decoded < windowed.min() + 1e-5
        binding += windowed.min() > free.min() + 1e-3
    assert binding > 0


def test_on_a_long_tree_marginals_and_labelling_belong_together(generator: torch.Generator) -> None:
    points = 40 * torch.rand(300, 3, generator=generator)
    graph, labels = SpanningTree()(points, torch.zeros(300)), Labels((2.0, 3.0, 1.0), 1.0)
    costs = random_costs(300, labels.shape(3), 7)
    marginals, best = (
        TreeMinSum(Quadratic(0.3))(costs, graph, labels),
        TreeMinSum(Quadratic(0.3)).best(costs, graph, labels),
    )
    assert float(marginals.flatten(1).amin(1).max()) < 1e-5
    assert torch.equal(marginals.flatten(1).argmin(1), best)
    paid = [
        float(energy(costs, graph, labels, Quadratic(0.3), labelling))
        for labelling in (best, costs.flatten(1).argmin(1))
    ]
    assert paid[0] < paid[1] - 1
    # what a marginal promises: fix a node on a label, and the optimum rises by just that
    node = 100
    fixed = costs.clone()
    fixed.flatten(1)[node] += 1e3 * (torch.arange(labels.count(3)) != 17)
    rise = (
        float(
            energy(
                costs,
                graph,
                labels,
                Quadratic(0.3),
                TreeMinSum(Quadratic(0.3)).best(fixed, graph, labels),
            )
        )
        - paid[0]
    )
    assert rise == pytest.approx(float(marginals.flatten(1)[node, 17]), abs=1e-4)


def test_a_single_keypoint_is_a_tree(device: torch.device) -> None:
    costs, graph = (
        random_costs(1, (3, 3), 0).to(device),
        Graph(1, torch.empty(0, 2, dtype=torch.long), torch.empty(0)).to(device),
    )
    for inference in (TreeMinSum(), LoopyMinSum()):
        marginals = inference(costs, graph, Labels(1.0, 1.0))
        torch.testing.assert_close(marginals - marginals.min(), costs - costs.min())
        assert int(inference.best(costs, graph, Labels(1.0, 1.0))) == int(costs.argmin())


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (networkx.cycle_graph(4), "4 edges in 1 parts"),
        (
            networkx.disjoint_union(networkx.path_graph(3), networkx.cycle_graph(3)),
            "5 edges in 2 parts",
        ),
    ],
)
def test_what_is_no_tree_is_refused(shape: networkx.Graph, said: str) -> None:
    graph = shuffled(shape, 0)  # the second has n - 1 edges, as a tree has
    for call in (TreeMinSum(), TreeMinSum().best):
        with pytest.raises(InputError, match=rf"needs a tree.*{said}.*LoopyMinSum"):
            call(random_costs(graph.n, (3, 3), 0), graph, Labels(1.0, 1.0))


LOOPS = {
    "triangle": networkx.cycle_graph(3),
    "ring": networkx.cycle_graph(6),
    "all": networkx.complete_graph(5),
    "grid": networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(2, 3)),
    "parts": networkx.disjoint_union(networkx.cycle_graph(3), networkx.path_graph(2)),
}


def met(
    costs: torch.Tensor, graph: Graph, term: Quadratic, iterations: int, damping: float
) -> Iterator[tuple[int, ...]]:
    """The labellings of loopy min-sum, from its definition: the single keypoints', then one an
    iteration.
    """
    flat, shape = costs.flatten(1).numpy(), tuple(costs.shape[1:])
    thetas = {
        tuple(edge): table(term, shape, length)
        for edge, length in zip(graph.edges.tolist(), graph.lengths.tolist(), strict=True)
    }
    thetas |= {(b, a): theta.T for (a, b), theta in thetas.items()}
    messages = {edge: np.zeros(flat.shape[1]) for edge in thetas}
    yield tuple(flat.argmin(1).tolist())
    for _ in range(iterations):
        said = {
            (a, b): (
                (flat[a] + sum(m for (c, at), m in messages.items() if at == a and c != b))[:, None]
                + theta
            )
            for (a, b), theta in thetas.items()
        }
        messages = {
            edge: (1 - damping) * (s.min(0) - s.min()) + damping * messages[edge]
            for edge, s in said.items()
        }
        yield tuple(
            int((flat[i] + sum(m for (_, at), m in messages.items() if at == i)).argmin())
            for i in range(graph.n)
        )


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_on_loops_the_best_labelling_met_is_returned(
    loop: networkx.Graph, term: Quadratic, device: torch.device
) -> None:
    inference = LoopyMinSum(term, iterations=6, damping=0.2, tolerance=0.0)
    for seed in range(6):
        shape = SHAPES[seed % 3]
        graph, costs, labels = (
            shuffled(loop, seed),
            random_costs(len(loop), shape, 20 + seed),
            labels_of(shape),
        )
        energies = all_energies(costs, graph, term)
        best = inference.best(costs.to(device), graph.to(device), labels).cpu()
        paid = energies[tuple(best.tolist())]
        assert paid >= energies.min() - 1e-9
        assert paid == pytest.approx(
            min(energies[labelling] for labelling in met(costs, graph, term, 6, 0.2)), abs=1e-5
        )
        beliefs = inference(costs.to(device), graph.to(device), labels)
        assert beliefs.shape == costs.shape
        assert torch.equal(beliefs.flatten(1).argmin(1).cpu(), best)


def test_the_last_labelling_may_be_worse_than_the_best() -> None:
    """Without which the test before would say nothing."""
    term, worse = TERMS["tight"], 0
    for seed in range(30):
        graph, costs = shuffled(LOOPS["all"], seed), random_costs(5, (4, 1), seed)
        energies = all_energies(costs, graph, term)
        paid = [energies[labelling] for labelling in met(costs, graph, term, 3, 0.0)]
        found = LoopyMinSum(term, iterations=3, damping=0.0, tolerance=0.0).best(
            costs, graph, labels_of((4, 1))
        )
        assert energies[tuple(found.tolist())] == pytest.approx(min(paid), abs=1e-5)
        worse += paid[-1] > min(paid) + 1e-3
    assert worse > 0


@pytest.mark.parametrize("term", [TERMS["tight"], TERMS["truncated"]], ids=["tight", "truncated"])
def test_messages_on_a_tree_settle_on_the_exact_marginals(
    term: Quadratic, device: torch.device
) -> None:
    for number, tree in enumerate(TREES):
        shape = SHAPES[number % 3]
        problem = (
            random_costs(len(tree), shape, number).to(device),
            shuffled(tree, number).to(device),
            labels_of(shape),
        )
        exact = TreeMinSum(term)(*problem)
        for inference in (
            LoopyMinSum(term, iterations=networkx.diameter(tree), damping=0.0, tolerance=0.0),
            LoopyMinSum(term, iterations=60, tolerance=1e-7),
        ):
            beliefs = inference(*problem)
            least = beliefs.flatten(1).amin(1).reshape(-1, *[1] * len(shape))
            torch.testing.assert_close(beliefs - least, exact, rtol=0, atol=1e-5)
            assert torch.equal(inference.best(*problem), TreeMinSum(term).best(*problem))


def test_settled_messages_stop_the_iteration() -> None:
    problem = random_costs(7, (4, 1), 3), shuffled(TREES[-1], 3), labels_of((4, 1))
    at_once = LoopyMinSum(TERMS["tight"], iterations=50, tolerance=1e9).best(*problem)
    assert torch.equal(at_once, LoopyMinSum(TERMS["tight"], iterations=1).best(*problem))
    assert not torch.equal(at_once, LoopyMinSum(TERMS["tight"], iterations=50).best(*problem))


@given(
    st.integers(0, 10**6),
    st.sampled_from([(5, 4), (1, 6), (3, 4, 2)]),
    st.floats(0, 3),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 3),
)
def test_a_message_is_the_least_over_all_labels(
    seed: int, shape: tuple[int, ...], weight: float, truncation: float | None, window: int | None
) -> None:
    term, belief, lengths = (
        Quadratic(weight, truncation, window),
        random_costs(3, shape, seed),
        torch.tensor([0.2, 1.0, 30.0]),
    )
    expected = np.stack(
        [
            (b[:, None] + table(term, shape, float(length))).min(0)
            for b, length in zip(belief.flatten(1).numpy(), lengths, strict=True)
        ]
    )
    kept = belief.clone()
    np.testing.assert_allclose(
        term.message(belief, lengths, labels_of(shape)).flatten(1), expected, atol=1e-6
    )
    assert torch.equal(belief, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(17, 13), (9, 1, 12), (7, 9, 5)])
def test_a_compiled_message_equals_whole_shifts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Of several edges at once, on one thread and three, with prices so low that every shift counts
    and so high that none does.
    """
    belief, labels, before = (
        random_costs(6, shape, 5).to(dtype),
        labels_of(shape),
        torch.get_num_threads(),
    )
    lengths = torch.tensor([1e-3, 0.5, 3.0, 20.0, 1e3, 1e9])
    for term in (
        Quadratic(0.02),
        Quadratic(0.02, truncation=0.3),
        Quadratic(0.02, window=2),
        Quadratic(0.0),
    ):
        expected = belief.clone()
        for axis, (n, step) in enumerate(
            zip(shape, labels.steps(len(shape)), strict=True), start=1
        ):
            apart = torch.arange(n)[:, None] - torch.arange(n)
            price = torch.where(
                apart.abs() <= (term.window or n),
                (term.weight / lengths).to(dtype)[:, None, None] * (apart * step) ** 2,
                torch.inf,
            )
            expected = (
                (
                    expected.movedim(axis, -1)[..., None, :]
                    + price.reshape(6, *(1,) * (len(shape) - 1), n, n)
                )
                .amin(-1)
                .movedim(-1, axis)
            )
        if term.truncation is not None:
            expected = torch.minimum(
                expected,
                belief.flatten(1).amin(1).reshape(-1, *(1,) * len(shape)) + term.truncation,
            )
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = term.message(belief, lengths, labels)
            torch.set_num_threads(before)
            # prices are lengths in single precision
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_belief_that_is_not_a_number_says_nothing_else() -> None:
    belief = random_costs(2, (5, 4), 1)
    belief[1, 3, 2] = torch.nan
    said = Quadratic(0.02).message(belief, torch.ones(2), labels_of((5, 4)))
    assert bool(said[0].isfinite().all())
    assert bool(said[1].isnan().all())


def test_energy_is_the_sum_over_nodes_and_edges() -> None:
    for seed in range(5):
        graph, costs = shuffled(LOOPS["all"], seed), random_costs(5, (2, 2), seed)
        labelling = torch.randint(0, 4, (5,), generator=torch.Generator().manual_seed(seed))
        for term in TERMS.values():
            assert float(energy(costs, graph, labels_of((2, 2)), term, labelling)) == pytest.approx(
                all_energies(costs, graph, term)[tuple(labelling.tolist())], abs=1e-5
            )


@pytest.mark.parametrize("wrong", [{"weight": -0.1}, {"truncation": -1.0}, {"window": 0}])
def test_an_impossible_pairwise_term_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(
        InputError, match="needs a weight and a truncation of 0 or more and a window of 1 or more"
    ):
        Quadratic(**wrong)


def wells(n: int, shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Costs of 1 and a little noise everywhere but at one label a node, and that label."""
    there = torch.randint(
        0, int(np.prod(shape)), (n,), generator=torch.Generator().manual_seed(seed)
    )
    costs = 1 + 0.1 * random_costs(n, shape, seed)
    costs.flatten(1).scatter_(1, there[:, None], 0.0)
    return costs, there


@pytest.mark.parametrize("shape", [(5, 3), (3, 5, 3)])
def test_mean_field_finds_what_the_data_say_clearly(
    shape: tuple[int, ...], device: torch.device
) -> None:
    points = 30 * torch.rand(60, len(shape), generator=torch.Generator().manual_seed(1))
    graph, labels, term = (
        SpanningTree()(points, torch.zeros(60)),
        labels_of(shape),
        Quadratic(0.002),
    )
    costs, there = wells(60, shape, 2)
    assert torch.equal(TreeMinSum(term).best(costs, graph, labels), there)
    marginals = MeanField(term)(costs.to(device), graph.to(device), labels)
    assert torch.equal(marginals.flatten(1).argmin(1).cpu(), there)
    probability = probabilities(marginals, 0.01)
    torch.testing.assert_close(
        probability.flatten(1).sum(1).cpu(), torch.ones(60, dtype=torch.float64)
    )
    assert float(probability.flatten(1).amax(1).min()) > 0.99


def test_mean_field_settles_where_every_node_sees_the_clouds_of_its_neighbours() -> None:
    """The definition of its fixed point, with the expectation over the neighbour's labels taken one
    by one.
    """
    # here the labels must be those of ``Labels``, an odd number an axis
    shape, temperature, weight = (3, 5), 0.2, 0.05
    graph, costs, labels = shuffled(LOOPS["grid"], 4), random_costs(6, shape, 4), labels_of(shape)
    marginals = MeanField(Quadratic(weight), temperature, iterations=400)(costs, graph, labels)
    cloud, seen = (
        probabilities(marginals, temperature).flatten(1).numpy(),
        costs.flatten(1).numpy().copy(),
    )
    for (a, b), length in zip(graph.edges.tolist(), graph.lengths.tolist(), strict=True):
        theta = table(Quadratic(weight), shape, length)
        seen[a] += theta @ cloud[b]
        seen[b] += cloud[a] @ theta
    # the temperature falls up to the last step, so that it lags behind by a little
    np.testing.assert_allclose(marginals.flatten(1), seen - seen.min(1, keepdims=True), atol=2e-3)
    assert float(np.abs(seen - costs.flatten(1).numpy()).max()) > 0.1


def test_mean_field_pulls_a_doubtful_keypoint_to_its_neighbours() -> None:
    labels, graph = Labels((3.0, 1.0), 1.0), shuffled(networkx.star_graph(4), 0)
    centre = int(torch.bincount(graph.edges.flatten()).argmax())
    costs = torch.ones(5, *labels.shape(2))
    costs[:, 5, 1] = 0.0  # all of them moved by 2 mm
    costs[centre] = 0.5
    marginals = MeanField(Quadratic(0.1))(costs, graph, labels)
    torch.testing.assert_close(
        soft_argmin(probabilities(marginals, 0.001), labels),
        torch.tensor([2.0, 0.0]).expand(5, 2),
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.parametrize("term", [Quadratic(0.1, truncation=1.0), Quadratic(0.1, window=2)])
def test_mean_field_takes_no_truncated_term(term: Quadratic) -> None:
    with pytest.raises(
        InputError, match="quadratic pairwise term without truncation or window; use LoopyMinSum"
    ):
        MeanField(term)


def test_independent_keypoints_keep_their_costs() -> None:
    costs = random_costs(4, (3, 3), 0)
    assert torch.equal(
        Independent()(costs, shuffled(networkx.path_graph(4), 0), Labels(1.0, 1.0)), costs
    )
    assert all(
        torch.equal(a, b)
        for a, b in neighbouring(
            [
                TreeMinSum(Quadratic(0.0)).best(
                    costs, shuffled(networkx.path_graph(4), 0), Labels(1.0, 1.0)
                ),
                costs.flatten(1).argmin(1),
            ]
        )
    )
