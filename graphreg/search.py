"""One discrete search: keypoints of the fixed image, what each pays for each label, what all of
them agree on.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graphreg.confidence import keypoint_confidence, present
from graphreg.cost_volume import cost_volume
from graphreg.graph import GraphBuilder, SpanningTree
from graphreg.inference import (
    Inference,
    Quadratic,
    TreeMinSum,
    entropy,
    probabilities,
    sub_label_argmin,
)
from graphreg.keypoints import Detector, Foerstner
from graphreg.labels import Labels
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import check_above_zero, check_count
from inrreg.objective.features import Feature
from inrreg.ops.masks import as_weight, bounding_box, without
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import linear, on_grid
from inrreg.similarity import MindSSC
from inrreg.transforms import Transform
from inrreg.transforms.warp import displaced

MASK_ROUNDING = 1e-4
"""A mask that is interpolated to 0.5 counts as inside, however it was rounded: linear interpolation
often meets 0.5 exactly, and devices round differently.
"""
_AT_ONCE = 128
"""Keypoints whose probabilities are held at a time."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Both images on one isotropic grid around the fixed mask, the moving one warped by what was
    found so far; ``mask`` is 0 or 1.
    """

    fixed: Image
    moving: Image
    mask: Image


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a search decides between: the ``costs`` of every label at ``keypoints`` (fixed world
    mm), and the features of both images of ``frame`` they are the differences of.
    """

    frame: Frame
    fixed: Image
    moving: Image
    keypoints: Float[Tensor, "n d"]
    costs: Float[Tensor, "n *labels"]


@dataclass(frozen=True, eq=False)
class Matches:
    """Where the keypoints went: ``displacements`` in mm beside ``keypoints``, both in the fixed
    world.

    ``confidence`` is in 0 ... 1, see ``graphreg.confidence``; ``entropy`` that of the marginal
    over the log of the number of labels; ``disagreement`` the distance between the displacements
    of the forward and the backward search, mm (0 without a backward search); ``cost`` the mean
    cost of the chosen labels.
    """

    keypoints: Float[Tensor, "n d"]
    displacements: Float[Tensor, "n d"]
    confidence: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    disagreement: Float[Tensor, " n"]
    cost: float

    def summary(self) -> dict[str, float]:
        """What metrics.json says of a search."""
        return {
            "keypoints": float(len(self.keypoints)),
            "mean_displacement_mm": float(self.displacements.norm(dim=1).mean()),
            "mean_confidence": float(self.confidence.mean()),
            "mean_entropy": float(self.entropy.mean()),
            "median_disagreement_mm": float(self.disagreement.median()),
            "cost": self.cost,
        }


@dataclass(frozen=True)
class Search:
    """The images at ``spacing_mm``, compared by ``feature`` at the keypoints of ``detector`` for
    each of ``labels``, made to agree along ``graph`` by ``inference``.

    Lengths of ``labels`` that differ from axis to axis are along x, y, z of the world, and taken
    along the index axes nearest to these. A patch of 2 ``patch_radius`` + 1 sites an axis, a
    label's step apart, is compared at each keypoint. ``temperature``, in units of the cost, turns
    marginals into probabilities. Where ``symmetric``, the search is run back from the points it
    found as well, and the marginals of both ways are averaged. No keypoint lies in the lesion of
    the fixed image, and what was found in that of the moving one is not trusted.
    """

    labels: Labels
    detector: Detector = field(default_factory=Foerstner)
    graph: GraphBuilder = field(default_factory=SpanningTree)
    inference: Inference = field(default_factory=lambda: TreeMinSum(Quadratic(0.001)))
    feature: Feature = field(default_factory=MindSSC)
    spacing_mm: float = 2.0
    patch_radius: int = 1
    temperature: float = 0.003
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_above_zero(self, "spacing_mm", "temperature")
        check_count(self, "patch_radius", least=0)

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None,
        generator: torch.Generator,
        memory_mb: float,
    ) -> Matches:
        """Match the keypoints of the fixed image in the moving one, seen through ``initial``.

        Raises:
            InputError: no keypoint, too few for the graph, a range larger than the image, or a cost
                volume beyond ``memory_mb``.
        """
        found, labels = (
            self.candidates(pair, initial, generator, memory_mb),
            self.labels.facing(pair.fixed.grid),
        )
        keypoints, costs, moving = found.keypoints, found.costs, found.frame.moving
        turn = torch.tensor(
            found.fixed.grid.direction.T, dtype=keypoints.dtype, device=keypoints.device
        )
        marginals = self._agreed(costs, found.frame.fixed, keypoints, labels)
        forward = sub_label_argmin(marginals, labels)
        disagreement = torch.zeros(len(keypoints), device=keypoints.device)
        if self.symmetric:
            points = keypoints + forward @ turn
            costs_back = cost_volume(
                found.moving, found.fixed, points, labels, self.patch_radius, memory_mb
            )
            del found  # the features are as large as several volumes, and have served
            backward = _turned_round(self._agreed(costs_back, moving, points, labels))
            del costs_back
            disagreement = (sub_label_argmin(backward, labels) - forward).norm(dim=1)
            marginals = (marginals + backward).div_(2)
            del backward
        displacements = sub_label_argmin(marginals, labels) @ turn
        uncertainty = torch.cat(
            [entropy(probabilities(part, self.temperature)) for part in marginals.split(_AT_ONCE)]
        )
        confidence = keypoint_confidence(
            uncertainty,
            disagreement,
            float(np.mean(labels.step_mm)),
            present(pair.moving_lesion, keypoints + displacements, initial),
        )
        chosen = costs.flatten(1).gather(1, marginals.flatten(1).argmin(1, keepdim=True))
        return Matches(
            keypoints, displacements, confidence, uncertainty, disagreement, float(chosen.mean())
        )

    def candidates(
        self,
        pair: ImagePair,
        initial: Transform | None,
        generator: torch.Generator,
        memory_mb: float,
    ) -> Candidates:
        """What is to be decided, before neighbours are asked.

        Raises:
            InputError: as ``run``.
        """
        frame = self.frame(pair, initial)
        keypoints = self.detector(frame.fixed, frame.mask, generator)
        fixed, moving = self.feature(frame.fixed), self.feature(frame.moving)
        return Candidates(
            frame,
            fixed,
            moving,
            keypoints,
            cost_volume(
                fixed,
                moving,
                keypoints,
                self.labels.facing(pair.fixed.grid),
                self.patch_radius,
                memory_mb,
            ),
        )

    def reach_mm(self, grid: Grid) -> Float[np.ndarray, " d"]:
        """How far beyond a keypoint it looks, along each index axis of an image."""
        labels = self.labels.facing(grid)
        return (np.array(labels.radii(grid.ndim)) + self.patch_radius) * np.array(
            labels.steps(grid.ndim)
        )

    def frame(self, pair: ImagePair, initial: Transform | None) -> Frame:
        """The grid reaches as far beyond the mask as the labels do, beyond the fixed image too."""
        mask = as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device)
        margin = np.ceil(self.reach_mm(pair.fixed.grid) / pair.fixed.grid.spacing).astype(int)
        lower, upper = (np.array(bound) for bound in bounding_box(mask))
        grid = pair.fixed.grid.cropped(
            (lower - margin).tolist(), (upper + margin).tolist()
        ).covering(self.spacing_mm)
        with torch.no_grad():
            still = torch.zeros(grid.ndim, *grid.shape, device=pair.fixed.device).movedim(0, -1)
            moved = still if initial is None else initial.displacement_on(grid)
            fixed, moving = (
                displaced(pyramid_level(image, self.spacing_mm), by, grid)
                for image, by in ((pair.fixed, still), (pair.moving, moved))
            )
            used = mask if pair.fixed_lesion is None else without(mask, pair.fixed_lesion)
            inside = (on_grid(used, grid).data > 0.5 - MASK_ROUNDING).to(torch.float32)
        return Frame(fixed, moving, Image(inside, grid, mask.name))

    def _agreed(
        self,
        costs: Float[Tensor, "n *labels"],
        image: Image,
        points: Float[Tensor, "n d"],
        labels: Labels,
    ) -> Float[Tensor, "n *labels"]:
        return self.inference(
            costs, self.graph(points, linear(image, points)[0]).to(costs.device), labels
        )


def _turned_round(marginals: Float[Tensor, "n *labels"]) -> Float[Tensor, "n *labels"]:
    """Those of the search from the moving image to the fixed one as if it had gone the other way:
    label d here is -d there.
    """
    return marginals.flip(list(range(1, marginals.ndim)))
