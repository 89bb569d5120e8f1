"""The values that one step of the optimiser provides to the terms of the cost: each is computed at
its first use and then shared by all terms.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.image import Image
from inrreg.core.threads import lazy
from inrreg.objective.features import Feature, intensities
from inrreg.objective.samplers import Sites
from inrreg.ops.interpolation import GridToVoxelMap, interpolated, within
from inrreg.ops.sampler import inside_at, linear_at, sampler_coordinates
from inrreg.ops.sampling import inside, linear
from inrreg.transforms import Linear, Transform, identity


class Level:
    """One level of the pyramid: both images at its spacing, their features and their masks (1 =
    use).
    """

    def __init__(
        self, fixed: Image, moving: Image, fixed_mask: Image, moving_mask: Image | None = None
    ) -> None:
        self.fixed, self.moving, self.fixed_mask, self.moving_mask = (
            fixed,
            moving,
            fixed_mask,
            moving_mask,
        )
        self._features: dict[tuple[str, Feature], Image] = {}

    def feature(self, which: str, feature: Feature) -> Image:
        """A feature of the ``"fixed"`` or ``"moving"`` image of this level, computed once."""
        key = (which, feature)
        if key not in self._features:
            self._features[key] = feature(self.fixed if which == "fixed" else self.moving)
        return self._features[key]


class Samples:
    """The sites of a step with all values that do not depend on the transform. They are cached as
    long as the sites stay the same.
    """

    def __init__(self, level: Level, sites: Sites) -> None:
        self.level, self.sites = level, sites
        self._cached: dict[Any, Any] = {}

    def cached(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The value of ``compute()``, computed once for each ``key``."""
        if key not in self._cached:
            self._cached[key] = compute()
        return self._cached[key]

    def fixed(self, feature: Feature = intensities) -> Float[Tensor, "b c *lattice"]:
        """Values of the fixed image at the sites."""
        return self.cached(
            ("fixed", feature), lambda: self._sample(self.level.feature("fixed", feature))
        )

    @lazy
    def weight(self) -> Float[Tensor, "b 1 *lattice"]:
        """How much each site counts by the fixed image and its mask."""
        mask = self._sample(self.level.fixed_mask)
        return (
            mask
            if self._on_voxels
            else mask * inside(self.level.fixed.grid, self.sites.points)[:, None]
        )

    @property
    def _on_voxels(self) -> bool:
        return self.sites.grid is not None and self.sites.grid.same_as(self.level.fixed.grid)

    def _sample(self, image: Image) -> Tensor:
        return (
            image.data[None]
            if self._on_voxels
            else linear(image, self.sites.points).transpose(0, 1)
        )


class Step:
    """The samples under the present map x -> initial(x + u(x)), with u the transform that is being
    fitted.
    """

    def __init__(self, samples: Samples, transform: Transform, initial: Transform | None) -> None:
        self.samples, self.transform, self.initial = samples, transform, initial
        self._warped: dict[Feature, Tensor] = {}

    @property
    def sites(self) -> Sites:
        return self.samples.sites

    @property
    def level(self) -> Level:
        return self.samples.level

    def fixed(self, feature: Feature = intensities) -> Float[Tensor, "b c *lattice"]:
        """Values of the fixed image at the sites."""
        return self.samples.fixed(feature)

    def warped(self, feature: Feature = intensities) -> Float[Tensor, "b c *lattice"]:
        """Values of the moving image where the sites are mapped to; those at sites without weight
        mean nothing.
        """
        if feature not in self._warped:
            data = self.level.feature("moving", feature).data
            self._warped[feature] = (
                self._interpolated(data)
                if self._placement is None
                else interpolated(data, self.displacement.squeeze(0), self._placement)[None]
            )
        return self._warped[feature]

    @lazy
    def displacement(self) -> Float[Tensor, "b *lattice d"]:
        """u at the sites, mm."""
        grid = self.sites.grid
        return (
            self.transform.displacement(self.sites.points)
            if grid is None
            else self.transform.displacement_on(grid)[None]
        )

    @lazy
    def fitted_inverse(self) -> Transform:
        """The map that is fitted to undo u, of fixed points too.

        Raises:
            TransformError: on a transform without one.
        """
        return self.transform.fitted_inverse()

    @lazy
    def preimage(self) -> Float[Tensor, "b *lattice d"]:
        """Where the counterpart carries the sites, mm."""
        return self.fitted_inverse(self.sites.points)

    @lazy
    def mapped(self) -> Float[Tensor, "b *lattice d"]:
        """Where the sites lie in the moving image, mm."""
        moved = self.sites.points + self.displacement
        return moved if self.initial is None else self.initial(moved)

    @lazy
    def weight(self) -> Float[Tensor, "b 1 *lattice"]:
        """How much each site counts: fixed mask, moving mask, and whether it is mapped into the
        moving image. No gradient.
        """
        weight = self.samples.weight if self.all_inside else self._weight_inside
        if self.level.moving_mask is not None:
            with torch.no_grad():
                weight = weight * self._interpolated(self.level.moving_mask.data)
        return weight

    @lazy
    def all_inside(self) -> bool:
        """Whether every site that counts is mapped into the moving image."""
        return torch.equal(self._weight_inside, self.samples.weight)

    @lazy
    def _weight_inside(self) -> Float[Tensor, "b 1 *lattice"]:
        weight, placement = self.samples.weight, self._placement
        if placement is not None:
            return within(
                weight[0, 0], self.displacement[0].detach(), self.level.moving.grid.shape, placement
            )[None, None]
        return weight * inside_at(self.level.moving.grid.shape, self._coordinates.detach())[:, None]

    @lazy
    def jacobian(self) -> Float[Tensor, "b *lattice d d"]:
        """I + Du at the sites, mm per mm."""
        grid = self.sites.grid
        return (
            self.transform.jacobian(self.sites.points)
            if grid is None
            else self.transform.jacobian_on(grid)[None]
        )

    @property
    def _placement(self) -> GridToVoxelMap | None:
        """Where the sites of a grid lie in the moving image, in closed form where the start is
        linear.
        """
        grid = self.sites.grid
        start = identity(self.transform.ndim) if self.initial is None else self.initial
        if grid is None or not isinstance(start, Linear):
            return None

        def placed() -> GridToVoxelMap:
            matrix = start.homogeneous().cpu().numpy()
            return GridToVoxelMap.through(
                grid,
                self.level.moving.grid,
                matrix[:-1, :-1],
                matrix[:-1, -1],
                self.samples.weight[0, 0] != 0,
            )

        return self.samples.cached(("placement", self.initial), placed)

    def _interpolated(self, data: Tensor) -> Tensor:
        return linear_at(data, self._coordinates).transpose(0, 1)

    @lazy
    def _coordinates(self) -> Tensor:
        """Where the sites lie on the grid of the moving image, which its features and its mask
        share.
        """
        return sampler_coordinates(self.level.moving.grid, self.mapped)


@runtime_checkable
class Term(Protocol):
    """One summand of the cost: a callable Step -> scalar mean, lower is better, with a name and a
    weight.

    Image terms (similarities) read ``step.fixed``, ``step.warped`` and ``step.weight``; geometric
    terms (penalties) read ``step.displacement`` and ``step.jacobian``. A term is a frozen
    dataclass: its fields are its configuration.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __call__(self, step: Step) -> Float[Tensor, ""]: ...
