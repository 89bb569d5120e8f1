"""The numeric inverse of any transform, with its residual in mm."""

from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InversionError
from inrreg.ops.small_matrices import solve
from inrreg.transforms.base import Transform, from_config, to_config


class NumericInverse(Transform):
    """x = T^-1(y), moving world point -> fixed world point.

    Newton's method solves T(x) = y for each point.

    Raises:
        InversionError: on evaluation, if a point's residual |T(x) - y| stays above
            ``tolerance_mm``; the message says where.
    """

    def __init__(
        self, forward_transform: Transform, tolerance_mm: float = 0.05, max_iterations: int = 30
    ) -> None:
        super().__init__()
        self.original = forward_transform
        self.tolerance_mm = tolerance_mm
        self.max_iterations = max_iterations
        self.ndim = forward_transform.ndim

    @torch.no_grad()
    def solve(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites d"], Float[Tensor, "*sites"]]:
        """Fixed points and the residual |T(x) - y| in mm at each.

        Points whose residual is above the tolerance are returned too.
        """
        y = points.reshape(-1, self.ndim)
        x = y - self.original.with_jacobian(y)[0]
        missed, jacobian = self._missed(x, y)
        error, step = missed.norm(dim=-1), missed.new_ones(len(missed))
        for _ in range(self.max_iterations):
            active = (error > self.tolerance_mm * 0.02).nonzero()[:, 0]
            if len(active) == 0:
                break
            direction = solve(jacobian[active], -missed[active])
            length = direction.norm(dim=-1, keepdim=True).clamp(min=1e-9)
            trial = x[active] + step[active, None] * direction * (20.0 / length).clamp(max=1.0)
            trial_missed, trial_jacobian = self._missed(trial, y[active])
            trial_error = trial_missed.norm(dim=-1)
            better = trial_error < error[active]
            step[active] = torch.where(better, (2 * step[active]).clamp(max=1.0), step[active] / 2)
            moved = active[better]
            x[moved] = trial[better]
            error[moved] = trial_error[better]
            missed[moved] = trial_missed[better]
            jacobian[moved] = trial_jacobian[better]
        return x.reshape(points.shape), error.reshape(points.shape[:-1])

    def residual(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites"]:
        """|T(T^-1(y)) - y| at moving world points, mm."""
        return self.solve(points)[1]

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        solution, error = self.solve(points.detach())
        failed = ~(error <= self.tolerance_mm)  # so written, NaN counts as failed
        if failed.any():
            worst = points.reshape(-1, self.ndim)[error.reshape(-1).argmax()]
            raise InversionError(
                f"{int(failed.sum())} of {error.numel()} points could not be inverted to"
                f" {self.tolerance_mm} mm; the worst, {float(error.max()):.3g} mm, is moving point"
                f" {[round(v, 1) for v in worst.tolist()]} RAS: the transform folds or does not"
                " reach it (look at the Jacobian map there, or ask for a larger tolerance)"
            )
        return self._differentiable(solution, points) - points

    def _differentiable(self, solution: Tensor, points: Tensor) -> Tensor:
        """The solution with its gradient dx/dy = J^-1, which the search does not record; its value
        stays as it is.
        """
        if not (torch.is_grad_enabled() and points.requires_grad):
            return solution
        with torch.no_grad():
            inverse = torch.linalg.inv(self.original.jacobian(solution))
        return solution + (inverse @ (points - points.detach())[..., None])[..., 0]

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        return torch.linalg.inv(self.original.jacobian(self(points)))

    def inverse(self, tolerance_mm: float = 0.05) -> Transform:
        """The transform this one inverts."""
        return self.original

    def _missed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """T(x) - y and the Jacobian of T at x."""
        displacement, jacobian = self.original.with_jacobian(x)
        return x + displacement - y, jacobian.contiguous()

    def config(self) -> dict[str, Any]:
        return {
            "original": to_config(self.original),
            "tolerance_mm": self.tolerance_mm,
            "max_iterations": self.max_iterations,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(
            from_config(config["original"]), config["tolerance_mm"], config["max_iterations"]
        )
