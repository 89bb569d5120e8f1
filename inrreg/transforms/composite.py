"""Several transforms one after the other."""

import copy
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import TransformError
from inrreg.core.grid import Grid
from inrreg.transforms.base import CHUNK, Transform, from_config, to_config
from inrreg.transforms.linear import Affine, Linear


def simplified(transform: Transform) -> Transform:
    """The same map with each run of linear transforms in a chain as one affine.

    This takes one matrix product a point instead of several.
    """
    if not isinstance(transform, Composite):
        return transform
    parts: list[Transform] = []
    for stage in transform.chain:
        if parts and isinstance(stage, Linear) and isinstance(parts[-1], Linear):
            first = parts[-1]
            parts[-1] = Affine.from_matrix(
                (stage.matrix() @ first.matrix()).detach(),
                (stage(first(first.center)) - first.center).detach(),
                first.center,
            )
        else:
            parts.append(stage)
    return parts[0] if len(parts) == 1 else Composite(parts)


def frozen_copy(transform: Transform, device: torch.device | str) -> Transform:
    """The same map on ``device``, with no parameter that requires a gradient.

    It shares no tensor with ``transform``, which stays as it is: a stage never moves or freezes the
    transform of its caller.
    """
    return copy.deepcopy(transform).to(device).requires_grad_(False)


def frozen_start(initial: Transform | None, device: torch.device | str) -> Transform | None:
    """What a stage evaluates at every step in place of ``initial``: a ``simplified`` frozen copy,
    or None where there is no initial transform.
    """
    if initial is None:
        return None
    return simplified(frozen_copy(initial, device)).requires_grad_(False)


def composed(residual: Transform, initial: Transform | None) -> Transform:
    """x -> initial(residual(x)): stages are composed, never added."""
    return residual if initial is None else Composite([residual, initial])


class Composite(Transform):
    """T(x) = T_n(... T_2(T_1(x))): the first of ``stages`` is applied first, to the fixed point.

    Raises:
        TransformError: no stage at all, or stages of different dimensions.
    """

    stages: nn.ModuleList

    def __init__(self, stages: Sequence[Transform]) -> None:
        super().__init__()
        flat = [
            inner
            for stage in stages
            for inner in (stage.chain if isinstance(stage, Composite) else [stage])
        ]
        if len({stage.ndim for stage in flat}) != 1:
            raise TransformError(
                "a composite needs one stage or more, all of one dimension; got"
                f" {[f'{type(s).__name__} in {s.ndim}-D' for s in flat]}"
            )
        self.stages = nn.ModuleList(flat)
        self.ndim = flat[0].ndim

    @property
    def chain(self) -> list[Transform]:
        return cast(list[Transform], list(self.stages))

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        return self._continue(points, self.chain[0].displacement(points))

    def displacement_on(self, grid: Grid) -> Float[Tensor, "*shape d"]:
        first = self.chain[0].displacement_on(grid)
        points = grid.points(device=first.device)
        parts = zip(
            points.reshape(-1, self.ndim).split(CHUNK),
            first.reshape(-1, self.ndim).split(CHUNK),
            strict=True,
        )
        return torch.cat([self._continue(p, u) for p, u in parts]).reshape(first.shape)

    def _continue(self, points: Tensor, displacement: Tensor) -> Tensor:
        """Displacements add along the chain, so small ones keep their precision far from the world
        origin.
        """
        for stage in self.chain[1:]:
            displacement = displacement + stage.displacement(points + displacement)
        return displacement

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        return self._chain(
            points, self.chain[0].jacobian(points), self.chain[0].displacement(points)
        )

    def with_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites d"], Float[Tensor, "*sites d d"]]:
        displacement, total = self.chain[0].with_jacobian(points)
        for stage in self.chain[1:]:
            more, jacobian = stage.with_jacobian(points + displacement)
            displacement, total = displacement + more, jacobian @ total
        return displacement, total

    def jacobian_on(self, grid: Grid) -> Float[Tensor, "*shape d d"]:
        d = self.ndim
        first = self.chain[0].jacobian_on(grid)
        moved = self.chain[0].displacement_on(grid)
        points = grid.points(device=self.device)
        parts = zip(
            points.reshape(-1, d).split(CHUNK),
            first.reshape(-1, d, d).split(CHUNK),
            moved.reshape(-1, d).split(CHUNK),
            strict=True,
        )
        return torch.cat([self._chain(*part) for part in parts]).reshape(first.shape)

    def _chain(self, points: Tensor, total: Tensor, displacement: Tensor) -> Tensor:
        for stage in self.chain[1:]:
            total = stage.jacobian(points + displacement) @ total
            displacement = displacement + stage.displacement(points + displacement)
        return total

    def inverse(self, tolerance_mm: float = 0.05) -> Transform:
        """The inverses in reverse order, in closed form where every stage has one; else
        numerically, of the whole chain.
        """
        if all(isinstance(stage, Linear) for stage in self.chain):
            return Composite([stage.inverse() for stage in reversed(self.chain)])
        return super().inverse(tolerance_mm)

    def config(self) -> dict[str, Any]:
        return {"stages": [to_config(stage) for stage in self.chain]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls([from_config(stage) for stage in config["stages"]])
