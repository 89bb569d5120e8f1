"""The learned regulariser: a network that reads the cost volumes of all keypoints and their graph,
and corrects them (after Hansen and Heinrich, GraphRegNet, IEEE TMI 2021).

Encoder: strided convolutions over the labels of each keypoint. Between encoder and decoder: edge
convolutions (Wang et al., Dynamic Graph CNN, ACM TOG 2019) on the keypoint graph, at every place of
the shrunk lattice of labels. Decoder: strided convolutions back, with skips. What GraphRegNet has
not: each pass also draws a keypoint to the mean displacement of its neighbours, as mean field does,
as much as it learns to. All of it starts at 0, so that the untrained network hands the costs on.
"""

import copy
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from graphreg.graph import Graph
from graphreg.inference import probabilities, soft_argmin
from graphreg.labels import Labels, lattice
from inrreg.core.errors import InputError
from inrreg.core.tensor_files import read_tensors, write_tensors

KIND, SCHEMA = "graphregnet", 1
IN_STEPS = Labels(1.0, 1.0)
"""Displacements counted in labels."""
CONVOLUTIONS: dict[int, Any] = {
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


@dataclass(frozen=True)
class Architecture:
    """What the weights are of: one stride of 2 for each of ``channels``, ``edge_layers`` edge
    convolutions on the last; ``passes`` times with the same weights.

    ``unit`` is the cost that counts as 1, and the temperature that turns the marginals into
    probabilities.

    Raises:
        InputError: neither 2-D nor 3-D, no channel, layer or pass, or a unit that is not above 0.
    """

    ndim: int = 3
    channels: tuple[int, ...] = (8, 16)
    edge_layers: int = 2
    passes: int = 3
    unit: float = 0.005

    def __post_init__(self) -> None:
        if (
            self.ndim not in CONVOLUTIONS
            or not self.channels
            or min(*self.channels, self.edge_layers, self.passes) < 1
            or not self.unit > 0
        ):
            raise InputError(
                "a network needs 2 or 3 dimensions, at least one channel, edge layer and pass, and"
                f" a unit above 0, got {self}"
            )


class EdgeConvolution(nn.Module):
    """x_i -> x_i + MLP(A x_i + max over neighbours j, and i itself, of V x_j - V x_i), at every
    place of the lattice alike; V is a 3-wide convolution.
    """

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[ndim][0]
        self.own, self.out = convolution(channels, channels, 1), convolution(channels, channels, 1)
        self.other = convolution(channels, channels, 3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "n c *labels"], neighbours: Int[Tensor, "n k"]
    ) -> Float[Tensor, "n c *labels"]:
        """One round of messages."""
        views = self.other(x)
        flat = views.flatten(1)
        largest = flat.gather(0, _argmax(flat.detach(), neighbours)).reshape(views.shape)
        return x + self.out(F.leaky_relu(normalised(self.own(x) + largest - views), 0.1))


def _argmax(values: Float[Tensor, "n m"], neighbours: Int[Tensor, "n k"]) -> Int[Tensor, "n m"]:
    """The node of the largest value among a node and its neighbours, as a running maximum: several
    times cheaper than the derivative of a maximum.
    """
    best = values
    node = torch.arange(len(values), device=values.device)[:, None].expand(values.shape)
    for column in neighbours.T:
        other = values.index_select(0, column)
        node = torch.where(other > best, column[:, None], node)
        best = torch.maximum(best, other)
    return node


def neighbour_table(graph: Graph) -> Int[Tensor, "n k"]:
    """The neighbours of each node in a row, filled up with the node itself; at least one column."""
    source, target = torch.cat([graph.edges, graph.edges.flip(1)]).T
    order = target.argsort(stable=True)
    source, target = source[order], target[order]
    degree = torch.bincount(target, minlength=graph.n)
    column = torch.arange(len(target), device=target.device) - (degree.cumsum(0) - degree)[target]
    table = torch.arange(graph.n, device=target.device)[:, None].repeat(
        1, max(1, int(degree.max()))
    )
    table[target, column] = source
    return table


class GraphRegNet(nn.Module):
    """Costs -> costs on which neighbours agree; ``forward`` takes costs ``[n, *labels]`` of any
    lattice that survives its strides.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture or Architecture()
        convolution, transposed = CONVOLUTIONS[a.ndim]
        widths = (2, *a.channels)
        self.down = nn.ModuleList(
            convolution(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths)
        )
        self.edges = nn.ModuleList(
            EdgeConvolution(a.ndim, widths[-1]) for _ in range(a.edge_layers)
        )
        self.up = nn.ModuleList(
            transposed(i, o, 3, stride=2, padding=1)
            for i, o in zip(widths[:1:-1], widths[-2:0:-1], strict=True)
        )
        self.last = transposed(widths[1], 1, 3, stride=2, padding=1)
        self.draw = nn.Parameter(torch.zeros(a.passes))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, costs: Float[Tensor, "n *labels"], graph: Graph
    ) -> Float[Tensor, "n *labels"]:
        """Costs plus the correction of every pass, in units of the cost.

        Raises:
            InputError: another number of dimensions, or a lattice of labels too small for the
                strides.
        """
        self._check(tuple(costs.shape[1:]))
        graph, marginals = graph.to(costs.device), costs
        neighbours = neighbour_table(graph)
        for strength in self.draw:
            correction = self._correction(
                marginals, neighbours
            ) + 10 * strength * self._squared_distance(marginals, graph)
            marginals = marginals + self.architecture.unit * correction
        return marginals

    def _squared_distance(
        self, marginals: Float[Tensor, "n *labels"], graph: Graph
    ) -> Float[Tensor, "n *labels"]:
        """|d - mean|^2 in squared steps: how far each label is from the mean displacement of the
        neighbours, weighted by 1 / length; 0 without neighbours.
        """
        ndim, (a, b) = marginals.ndim - 1, graph.edges.T
        means = soft_argmin(probabilities(marginals, self.architecture.unit), IN_STEPS)
        means = torch.cat([means, torch.ones_like(means[:, :1])], 1)
        weights = 1 / graph.lengths.to(means)[:, None]
        total = (
            torch.zeros_like(means)
            .index_add(0, a, weights * means[b])
            .index_add(0, b, weights * means[a])
        )
        heard = total[:, -1:] > 0
        mean = total[:, :-1] / total[:, -1:].where(heard, 1.0)
        d = lattice([n // 2 for n in marginals.shape[1:]], IN_STEPS.steps(ndim)).to(marginals)
        off = (d - mean.reshape(-1, *(1,) * ndim, ndim)).square().sum(-1)
        return off * heard.reshape(-1, *(1,) * ndim)

    def _correction(
        self, marginals: Float[Tensor, "n *labels"], neighbours: Int[Tensor, "n k"]
    ) -> Float[Tensor, "n *labels"]:
        least = marginals.flatten(1).amin(1).reshape(-1, *(1,) * (marginals.ndim - 1))
        x = torch.stack(
            [
                ((least - marginals) / self.architecture.unit).exp(),
                (marginals - least) / (10 * self.architecture.unit),
            ],
            1,
        )
        levels = [x]
        for layer in self.down:
            levels.append(F.leaky_relu(normalised(layer(levels[-1])), 0.1))
        x = levels.pop()
        for edge in self.edges:
            x = edge(x, neighbours)
        for layer in self.up:
            skip = levels.pop()
            x = F.leaky_relu(normalised(layer(x, output_size=skip.shape[2:]) + skip), 0.1)
        return self.last(x, output_size=marginals.shape[1:])[:, 0]

    def _check(self, shape: tuple[int, ...]) -> None:
        a = self.architecture
        if len(shape) != a.ndim:
            raise InputError(
                f"this network is for {a.ndim}-D images and got costs of {len(shape)}-D labels;"
                f" build one with Architecture(ndim={len(shape)})"
            )
        least = 2 ** len(a.channels) + 1
        if min(shape) < least:
            raise InputError(
                f"{len(a.channels)} strides need at least {least} labels an axis, got {shape}; give"
                " a larger range_mm, a smaller step_mm or fewer channels"
            )


def normalised(x: Float[Tensor, "n c *labels"]) -> Float[Tensor, "n c *labels"]:
    """Each channel of each keypoint with mean 0 and variance 1 over the labels (instance
    normalisation).
    """
    return F.instance_norm(x)


@dataclass(frozen=True, eq=False)
class LearnedInference:
    """``model`` as an inference: costs, graph -> marginals, whose temperature is
    ``model.architecture.unit``. No gradient.

    The model is part of the settings of a search and never changes: on another device a copy of it
    is evaluated.

    ``Search(inference=LearnedInference(load_network(path)), graph=NearestNeighbours(10),
    temperature=unit)``; a tree will do as well, but is not what it was trained on.
    """

    model: GraphRegNet

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]:
        here = next(self.model.parameters()).device == costs.device
        model = self.model if here else copy.deepcopy(self.model).to(costs.device)
        with torch.no_grad():
            return model(costs, graph)


def save_network(
    model: GraphRegNet, path: str | os.PathLike[str], notes: dict[str, str] | None = None
) -> None:
    """Write the weights and, in the same file's header, the architecture and ``notes`` (how it was
    trained); whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_tensors(
        path,
        KIND,
        model.state_dict(),
        {"schema": SCHEMA, "architecture": asdict(model.architecture), "notes": notes or {}},
    )


def load_network(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> GraphRegNet:
    """The network that ``save_network`` wrote.

    Raises:
        InputError: no such file, or none of ours, or damaged.
    """
    weights, description = read_tensors(path, KIND)
    if description.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has network schema {description.get('schema')}, this version reads {SCHEMA};"
            " load it with the version that wrote it"
        )
    try:
        entries = description["architecture"]
        model = GraphRegNet(Architecture(**{**entries, "channels": tuple(entries["channels"])}))
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} holds no network of ours ({type(error).__name__}: {error}); give a file that"
            " save_network wrote"
        ) from error
    return model.to(device)
