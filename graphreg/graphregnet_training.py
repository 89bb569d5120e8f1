"""Training of the learned regulariser without any truth: what the network moves must look alike
(Hansen and Heinrich, IEEE TMI 2021).

The displacements of the keypoints, soft-argmin of the marginals, are spread to random sites of the
mask by the nearest keypoints. The loss is the mean squared difference of the features (MIND-SSC) of
the fixed image at small patches about those sites and of the moving one at the patches displaced. A
site knows no cost of its own, so a keypoint serves it best by moving as its surroundings do: that
is what teaches the edge convolutions. A small penalty on the differences along edges is added. Cost
volumes do not depend on the weights: they are computed once a pair.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphreg.graph import Graph
from graphreg.graphregnet import Architecture, GraphRegNet
from graphreg.inference import probabilities, soft_argmin
from graphreg.labels import Labels, lattice
from graphreg.search import Search
from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.ops.sampling import linear
from inrreg.optimisation.training_loop import Progress, Run
from inrreg.transforms import Transform
from inrreg.transforms.composite import frozen_copy

SPREAD = 6
"""Keypoints that move a site."""


@dataclass(frozen=True, eq=False)
class Example:
    """What training needs of a pair: ``costs`` of ``keypoints`` (world mm) and their ``graph``,
    both feature images (half precision) and the ``sites`` (world mm) that may be asked.
    """

    costs: Float[Tensor, "n *labels"]
    keypoints: Float[Tensor, "n d"]
    graph: Graph
    fixed: Image
    moving: Image
    sites: Float[Tensor, "m d"]


@dataclass(frozen=True)
class Training:
    """``epochs`` visits to every pair, each a step on ``keypoints`` that lie together and ``sites``
    between them, the labels mirrored and turned at random.

    Adam with the learning rate falling from ``rate`` to 0 along half a cosine. ``diffusion`` weighs
    the mean over edges of |u_i - u_j|^2 / length, u and length in mm. The patch of a site has 2
    ``patch_radius`` + 1 points an axis, a label's step apart. ``patience`` is for examples that are
    held out, see ``train_on``.

    Raises:
        InputError: a count below 1, too few keypoints to spread from, or a rate that is not above
            0.
    """

    epochs: int = 30
    keypoints: int = 192
    sites: int = 1024
    rate: float = 0.02
    diffusion: float = 0.003
    patch_radius: int = 1
    patience: int = 10

    def __post_init__(self) -> None:
        if (
            min(self.epochs, self.sites, self.patience) < 1
            or self.keypoints < SPREAD
            or not self.rate > 0
            or self.diffusion < 0
            or self.patch_radius < 0
        ):
            raise InputError(
                f"training needs at least 1 epoch and site, a patience of 1, {SPREAD} keypoints, a"
                f" rate above 0 and no negative weight, got {self}"
            )


def example(
    search: Search,
    pair: ImagePair,
    initial: Transform | None = None,
    seed: int = 0,
    memory_mb: float = 2048.0,
) -> Example:
    """The costs that ``search`` would put to its inference for ``pair`` seen through ``initial``;
    on the device of the pair.

    Raises:
        InputError: see ``Search.run``.
    """
    found = search.candidates(pair, initial, torch.Generator().manual_seed(seed), memory_mb)
    graph = search.graph(found.keypoints, linear(found.frame.fixed, found.keypoints)[0]).to(
        found.costs.device
    )
    mask = found.frame.mask
    sites = mask.grid.to_world((mask.data[0] > 0.5).nonzero().to(torch.float32))
    fixed, moving = (image.with_data(image.data.half()) for image in (found.fixed, found.moving))
    return Example(found.costs, found.keypoints, graph, fixed, moving, sites)


def train(
    pairs: Sequence[ImagePair],
    search: Search,
    settings: Training | None = None,
    architecture: Architecture | None = None,
    *,
    initial: Sequence[Transform | None] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> GraphRegNet:
    """A network that regularises the costs of ``search``, whose own inference is not asked, on
    images like ``pairs``, each seen through its ``initial``.

    See ``train_on`` for the rest.
    """
    starts = initial or [None] * len(pairs)
    if len(starts) != len(pairs):
        raise InputError(
            f"{len(pairs)} pairs and {len(starts)} initial transforms; give one a pair, or none"
        )
    with torch.no_grad():
        examples = [
            example(
                search,
                pair.to(device),
                None if start is None else frozen_copy(start, device),
                seed,
            )
            for pair, start in zip(pairs, starts, strict=True)
        ]
    return train_on(
        examples,
        search.labels,
        settings,
        architecture,
        seed=seed,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def train_on(
    examples: Sequence[Example],
    labels: Labels,
    settings: Training | None = None,
    architecture: Architecture | None = None,
    *,
    held_out: Sequence[Example] = (),
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> GraphRegNet:
    """Train on cost volumes that are at hand, on the device they are on, of a search among
    ``labels``.

    With ``held_out`` examples training ends ``settings.patience`` epochs after the best for them,
    whose weights are kept. ``checkpoint`` is written after every epoch; with ``resume`` training
    goes on from it where it is there, and on a CPU ends in the same bits as without a stop.

    Raises:
        InputError: no pair, too few keypoints, or a checkpoint of other settings.
    """
    settings, architecture = (
        settings or Training(),
        architecture or Architecture(ndim=examples[0].keypoints.shape[1] if examples else 3),
    )
    if not examples or min(len(e.keypoints) for e in [*examples, *held_out]) < SPREAD:
        raise InputError(f"training needs at least one pair, and {SPREAD} keypoints in each")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GraphRegNet(architecture).to(examples[0].costs.device)

    def on(example: Example, generator: torch.Generator) -> Float[Tensor, ""]:
        return loss(model, example, labels, settings, generator)

    run = Run(
        model,
        settings.rate,
        seed,
        {"training": asdict(settings), "architecture": asdict(architecture)},
    )
    run.fit(
        examples,
        on,
        settings.epochs,
        held_out=held_out,
        patience=settings.patience,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return model.eval().requires_grad_(False)


def loss(
    model: GraphRegNet,
    example: Example,
    labels: Labels,
    settings: Training,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """The training loss on a part of a pair chosen by ``generator``."""
    part, labels = (
        _together(example.keypoints, settings.keypoints, generator),
        labels.facing(example.fixed.grid),
    )
    points, graph = example.keypoints[part], subgraph(example.graph, part)
    displacements = displaced(model, example.costs[part], graph, labels, generator) @ torch.tensor(
        example.fixed.grid.direction.T, dtype=points.dtype, device=points.device
    )
    sites = _between(points, example.sites, settings.sites, generator)
    moved = sites + spread(sites, points, displacements)
    data = _unlikeness(example, sites, moved, labels, settings.patch_radius)
    a, b = graph.edges.unbind(1)
    return (
        data
        + settings.diffusion
        * ((displacements[a] - displacements[b]).square().sum(1) / graph.lengths).mean()
    )


def displaced(
    model: GraphRegNet,
    costs: Float[Tensor, "n *labels"],
    graph: Graph,
    labels: Labels,
    generator: torch.Generator,
) -> Float[Tensor, "n d"]:
    """Soft-argmin displacement, mm along the index axes, of costs that the network sees mirrored,
    and turned where the labels along all axes are the same.
    """
    d = costs.ndim - 1
    mirrored = [a + 1 for a in range(d) if torch.rand((), generator=generator) < 0.5]
    cubic = len(set(costs.shape[1:])) == 1 and len(set(labels.steps(d))) == 1
    order = torch.randperm(d, generator=generator).tolist() if cubic else list(range(d))
    seen = costs.flip(mirrored).permute(0, *[a + 1 for a in order]).contiguous()
    marginals = (
        model(seen, graph).permute(0, *[order.index(a) + 1 for a in range(d)]).flip(mirrored)
    )
    return soft_argmin(probabilities(marginals, model.architecture.unit), labels)


def spread(
    sites: Float[Tensor, "m d"], points: Float[Tensor, "n d"], displacements: Float[Tensor, "n d"]
) -> Float[Tensor, "m d"]:
    """Displacement of each site, mm: the mean of the nearest keypoints, weighted by the inverse
    square of the distance, softened by that to the nearest one.
    """
    distance, nearest = torch.cdist(
        sites, points, compute_mode="donot_use_mm_for_euclid_dist"
    ).topk(min(SPREAD, len(points)), largest=False)
    weights = 1 / (distance.square() + distance[:, :1].square().clamp(min=1.0))
    return (weights[..., None] * displacements[nearest]).sum(1) / weights.sum(1, keepdim=True)


def subgraph(graph: Graph, nodes: Int[Tensor, " k"]) -> Graph:
    """The edges between ``nodes``, which are numbered anew in their order."""
    number = torch.full((graph.n,), -1, device=nodes.device)
    number[nodes] = torch.arange(len(nodes), device=nodes.device)
    ends = number[graph.edges]
    kept = (ends >= 0).all(1)
    return replace(graph, n=len(nodes), edges=ends[kept], lengths=graph.lengths[kept])


def _unlikeness(
    example: Example,
    sites: Float[Tensor, "m d"],
    moved: Float[Tensor, "m d"],
    labels: Labels,
    radius: int,
) -> Float[Tensor, ""]:
    """Mean squared difference of the features over sites, channels and the points of the patch."""
    d = sites.shape[1]
    turn = torch.tensor(example.fixed.grid.direction.T, dtype=sites.dtype)
    patch = (
        (lattice((radius,) * d, labels.steps(d)).to(sites.dtype) @ turn)
        .to(sites.device)
        .reshape(1, -1, d)
    )
    return (
        (
            linear(example.fixed, sites[:, None] + patch)
            - linear(example.moving, moved[:, None] + patch)
        )
        .square()
        .mean()
    )


def _together(
    points: Float[Tensor, "n d"], count: int, generator: torch.Generator
) -> Int[Tensor, " k"]:
    """``count`` points that lie nearest to a random one of them, in their old order."""
    middle = points[torch.randint(len(points), (1,), generator=generator).to(points.device)]
    return (
        (points - middle)
        .square()
        .sum(1)
        .topk(min(count, len(points)), largest=False)
        .indices.sort()
        .values
    )


def _between(
    points: Float[Tensor, "n d"],
    sites: Float[Tensor, "m d"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "k d"]:
    """``count`` of the sites at random, from the box around ``points``; with the points themselves
    where the box holds none.
    """
    lower, upper = points.amin(0), points.amax(0)
    near = ((sites >= lower) & (sites <= upper)).all(1).nonzero()[:, 0]
    if len(near) == 0:
        return points
    return sites[near[torch.randint(len(near), (count,), generator=generator).to(points.device)]]
