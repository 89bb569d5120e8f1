"""The learned regulariser: what holds untrained, that training helps and can be stopped, and its
files.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphreg import (
    Graph,
    GraphRegistration,
    Independent,
    Labels,
    NearestNeighbours,
    RegularKeypoints,
    Search,
    SpanningTree,
)
from graphreg.graphregnet import (
    Architecture,
    GraphRegNet,
    LearnedInference,
    load_network,
    save_network,
)
from graphreg.graphregnet_training import (
    Example,
    Training,
    displaced,
    example,
    loss,
    spread,
    subgraph,
    train,
    train_on,
)
from graphreg.inference import sub_label_argmin
from inrreg.core.errors import InputError, OutputError
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.tensor_files import read_tensors
from inrreg.phantoms import PhantomPair, blob_pair

LABELS = Labels(16.0, 2.0)
SEARCH = Search(
    LABELS, RegularKeypoints(5.0, 0.0), NearestNeighbours(6), spacing_mm=1.5, symmetric=False
)
SMALL = Architecture(ndim=2, channels=(4, 8), edge_layers=2, passes=2)
SHORT = Training(epochs=4, keypoints=40, sites=64)


def costs_and_graph(
    ndim: int, n: int = 12, device: torch.device | str = "cpu"
) -> tuple[Tensor, Graph]:
    generator = torch.Generator().manual_seed(3)
    points = 30 * torch.rand(n, ndim, generator=generator)
    costs = 0.1 * torch.rand(n, *(9, 11, 13)[:ndim], generator=generator)
    return costs.to(device), NearestNeighbours(4)(points, points[:, 0]).to(device)


def awake(ndim: int, channels: tuple[int, ...] = (4, 8)) -> GraphRegNet:
    """A network of which no weight is 0."""
    torch.manual_seed(0)
    model = GraphRegNet(Architecture(ndim=ndim, channels=channels, edge_layers=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def blobs(seed: int) -> PhantomPair:
    return blob_pair((64, 60), (1.5, 1.5), shift_mm=7.0, seed=seed, noise=0.08, n_blobs=60)


def as_pair(phantom: PhantomPair) -> ImagePair:
    return ImagePair(
        phantom.fixed, phantom.moving, phantom.fixed_mask.mask(), phantom.moving_mask.mask()
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these spend their time waiting for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [example(SEARCH, as_pair(blobs(seed))) for seed in (1, 2, 3)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_untrained_it_hands_the_costs_on(ndim: int, device: torch.device) -> None:
    costs, graph = costs_and_graph(ndim, device=device)
    model = GraphRegNet(Architecture(ndim=ndim))
    assert torch.equal(LearnedInference(model)(costs, graph, Labels(1.0, 1.0)), costs)


def test_any_order_of_the_keypoints_gives_the_same() -> None:
    costs, graph = costs_and_graph(3)
    model, order = awake(3), torch.randperm(len(costs), generator=torch.Generator().manual_seed(1))
    moved = replace(
        graph, edges=order.argsort()[graph.edges].flip(0, 1), lengths=graph.lengths.flip(0)
    )
    expected = model(costs, graph)
    assert (expected - costs).abs().max() > 0.01
    torch.testing.assert_close(model(costs[order], moved), expected[order], rtol=1e-4, atol=1e-5)


def test_a_neighbour_is_heard_and_a_stranger_is_not() -> None:
    costs = costs_and_graph(2)[0][:4]
    model, graph = awake(2), Graph(4, torch.tensor([[0, 1], [2, 3]]), torch.ones(2))
    other = costs.clone()
    other[1] = other[1].flip(0)
    change = (model(other, graph) - model(costs, graph)).abs().flatten(1).amax(1)
    assert change[0] > 1e-4
    assert change[2:].max() == 0


def test_every_weight_has_a_gradient(device: torch.device) -> None:
    costs, graph = costs_and_graph(3, device=device)
    model = awake(3).to(device)
    model(costs, graph).square().mean().backward()
    without = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert without == []


def test_trees_and_single_keypoints_will_do() -> None:
    costs, _ = costs_and_graph(2)
    points = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    for n in (1, 12):
        assert (
            awake(2)(costs[:n], SpanningTree()(points[:n], points[:n, 0])).shape == costs[:n].shape
        )


def test_it_can_draw_a_keypoint_to_the_mean_of_its_neighbours() -> None:
    """Mean field by hand: two certain neighbours at different distances, and one keypoint that
    knows nothing.
    """
    costs = torch.ones(3, 17, 17)
    costs[0, 8, 12] = costs[1, 8, 6] = 0.0
    costs[2] = 0.0
    graph = Graph(3, torch.tensor([[0, 2], [2, 1]]), torch.tensor([1.0, 2.0]))
    model = GraphRegNet(SMALL)
    with torch.no_grad():
        model.draw.fill_(0.1)
    drawn = sub_label_argmin(LearnedInference(model)(costs, graph, LABELS), LABELS)
    torch.testing.assert_close(
        drawn[2], 2.0 * torch.tensor([0.0, (4 - 2 / 2) / 1.5]), atol=1e-3, rtol=0
    )


def test_what_does_not_fit_is_refused() -> None:
    costs, graph = costs_and_graph(3)
    with pytest.raises(
        InputError, match=r"4 strides need at least 17 labels an axis, got \(9, 11, 13\)"
    ):
        awake(3, (2, 2, 2, 2))(costs, graph)
    with pytest.raises(InputError, match="for 2-D images"):
        awake(2)(costs, graph)
    with pytest.raises(InputError, match="at least one channel"):
        Architecture(channels=())
    with pytest.raises(InputError, match="at least 1 epoch"):
        Training(epochs=0)
    with pytest.raises(InputError, match="at least one pair"):
        train_on([], LABELS)
    with pytest.raises(InputError, match="1 pairs and 2 initial"):
        train([as_pair(blobs(1))], SEARCH, initial=[None, None])


def test_mirrored_and_turned_costs_give_the_same_displacement() -> None:
    costs = 0.1 * torch.rand(5, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    graph = Graph(5, torch.tensor([[0, 1], [1, 2]]), torch.ones(2))
    model = GraphRegNet()
    first, *others = (
        displaced(model, costs, graph, Labels(4.0, 1.0), torch.Generator().manual_seed(seed))
        for seed in range(8)
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)


def test_a_subgraph_keeps_the_edges_between_its_nodes() -> None:
    graph = Graph(5, torch.tensor([[0, 1], [1, 3], [3, 4]]), torch.tensor([1.0, 2.0, 3.0]))
    part = subgraph(graph, torch.tensor([1, 3, 4]))
    assert (part.n, part.edges.tolist(), part.lengths.tolist()) == (3, [[0, 1], [1, 2]], [2.0, 3.0])


def test_what_all_keypoints_do_every_site_does() -> None:
    points, sites = torch.rand(9, 3), torch.rand(4, 3)
    torch.testing.assert_close(
        spread(sites, points, torch.tensor([1.0, 2.0, 3.0]).expand(9, 3)),
        torch.tensor([1.0, 2.0, 3.0]).expand(4, 3),
    )


def test_the_truth_costs_less_than_no_motion() -> None:
    """The loss has its gradient through the displacements alone, so it must tell a good one from a
    bad one.
    """
    phantom = blobs(1)
    made = example(SEARCH, as_pair(phantom))
    true = LABELS.displacements(made.fixed.grid)
    wanted = (phantom.truth(made.keypoints.double()) - made.keypoints).float()
    sharp = 0.01 * (true[None] - wanted[:, None, None]).square().sum(-1)
    values = [
        loss(
            GraphRegNet(SMALL),
            replace(made, costs=costs),
            LABELS,
            SHORT,
            torch.Generator().manual_seed(0),
        ).item()
        for costs in (sharp, torch.zeros_like(sharp))
    ]
    assert values[0] < 0.8 * values[1]


def test_training_lowers_the_loss_and_beats_no_regularisation(examples: list[Example]) -> None:
    settings = Training(epochs=40, keypoints=80, sites=256)

    def mean_loss(model: GraphRegNet) -> float:
        return sum(
            loss(model, e, LABELS, settings, torch.Generator().manual_seed(0)).item()
            for e in examples
        )

    model = train_on(examples, LABELS, settings, SMALL)
    assert mean_loss(model) < 0.9 * mean_loss(GraphRegNet(SMALL))
    held_out = blobs(9)
    errors = []
    for inference in (Independent(), LearnedInference(model)):
        found = (
            GraphRegistration((replace(SEARCH, inference=inference),))
            .run(as_pair(held_out))
            .correspondences
        )
        assert found is not None
        errors.append(
            float((found.moving.coords - held_out.truth(found.fixed.coords)).norm(dim=1).mean())
        )
    assert errors[1] < 0.7 * errors[0]


def test_a_stopped_training_goes_on_to_the_same_bits(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_on(
        examples, LABELS, SHORT, SMALL, seed=5, checkpoint=tmp_path / "whole.safetensors"
    )
    epochs = 0

    def stop(content: bytes, path: Path) -> None:
        nonlocal epochs
        path.write_bytes(content)
        epochs += 1
        if epochs == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inrreg.core.tensor_files.write_whole", stop)
        with pytest.raises(KeyboardInterrupt):
            train_on(
                examples, LABELS, SHORT, SMALL, seed=5, checkpoint=tmp_path / "part.safetensors"
            )
    resumed = train_on(
        examples,
        LABELS,
        SHORT,
        SMALL,
        seed=5,
        checkpoint=tmp_path / "part.safetensors",
        resume=True,
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    histories = [
        read_tensors(tmp_path / f"{name}.safetensors", "training")[1]["history"]
        for name in ("whole", "part")
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == SHORT.epochs
    other = train_on(examples, LABELS, SHORT, SMALL, seed=6)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_another_training_is_refused(
    examples: list[Example], tmp_path: Path
) -> None:
    once = replace(SHORT, epochs=1)
    train_on(examples, LABELS, once, SMALL, checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="train with the same settings"):
        train_on(
            examples,
            LABELS,
            replace(once, rate=0.5),
            SMALL,
            checkpoint=tmp_path / "c.safetensors",
            resume=True,
        )
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        train_on(examples, LABELS, once, SMALL, checkpoint=tmp_path / "c.safetensors", resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_training_on_a_device_starts_from_pairs(device: torch.device) -> None:
    model = train([as_pair(blobs(1))], SEARCH, replace(SHORT, epochs=1), SMALL, device=device)
    assert {p.device.type for p in model.parameters()} == {device.type}
    result = GraphRegistration((replace(SEARCH, inference=LearnedInference(model)),)).run(
        as_pair(blobs(2)).to(device)
    )
    assert result.correspondences is not None


def test_a_network_comes_back_from_its_file(tmp_path: Path) -> None:
    costs, graph = costs_and_graph(3)
    model = awake(3)
    save_network(model, tmp_path / "net.safetensors", {"trained on": "nothing"})
    loaded = load_network(tmp_path / "net.safetensors")
    assert loaded.architecture == model.architecture
    assert torch.equal(loaded(costs, graph), model(costs, graph))
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no graphregnet"):
        load_network(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="holds no graphregnet"):
        load_network(tmp_path / "text")
    with pytest.raises(OutputError, match="could not be written"):
        save_network(awake(2), tmp_path / "text" / "net")


def test_half_precision_features_hold_the_images(examples: list[Example]) -> None:
    made = examples[0]
    assert isinstance(made.fixed, Image)
    assert made.fixed.data.dtype == made.moving.data.dtype == torch.float16
    assert made.costs.shape == (len(made.keypoints), *LABELS.shape(2))
