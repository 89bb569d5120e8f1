"""What a transform is: a map from fixed world points to moving world points, in mm."""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import TransformError
from inrreg.core.grid import Grid
from inrreg.core.html import html_table
from inrreg.fields.tangents import forward_mode
from inrreg.transforms.user_points import by_tensor, takes_any_points

TYPES: dict[str, type["Transform"]] = {}
"""Every concrete transform by its name: it enters when its class is made, and can be saved and
loaded from then on.
"""
CHUNK = 1 << 18
"""Points evaluated at once where memory would otherwise grow with the image."""


class Transform(nn.Module, ABC):
    """T: fixed world point -> moving world point, RAS mm; T(x) = x + u(x).

    A concrete transform gives ``displacement`` and, for saving, ``config`` and ``from_config``; all
    else follows. Where it can render itself on a whole grid faster than point by point it overrides
    ``displacement_on`` and ``jacobian_on``.
    """

    ndim: int
    prefers_torch_threads: bool = False
    """Whether to evaluate it is mostly to multiply large matrices, which torch's own threads do
    better than compiled loops.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = TYPES.get(cls.__name__)
        if known is None or known.__module__ == cls.__module__:
            TYPES[cls.__name__] = cls
        if "jacobian" in cls.__dict__:
            cls.jacobian = takes_any_points(cls.jacobian)  # type: ignore[method-assign]

    def __call__(self, points: Any) -> Any:
        """Where fixed points ``[..., d]``, RAS mm, lie in the moving image.

        Takes a tensor, a numpy array, a list or ``inrreg.Points`` and gives the same kind.

        Raises:
            InputError: ``points`` hold no numbers.
            FrameError: ``points`` have another dimension than the transform.
        """
        if isinstance(points, Tensor):
            return super().__call__(points)
        return by_tensor(super().__call__, points, self)

    def __matmul__(self, first: "Transform") -> "Transform":
        """The composition: ``(a @ b)(x) == a(b(x))``.

        Raises:
            TransformError: the two have different dimensions.
        """
        if not isinstance(first, Transform):
            return NotImplemented
        composite: Any = TYPES["Composite"]  # by its name, because its file imports this one
        composition: Transform = composite([first, self])
        return composition

    @abstractmethod
    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        """u at fixed world points, mm."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What ``from_config`` needs to build the same transform, tensors aside; JSON values
        only.
        """

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The transform of ``config`` with placeholder tensors, to be filled by
        ``load_state_dict``.
        """

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        """Where fixed world points lie in the moving image, mm."""
        return points + self.displacement(points)

    @takes_any_points
    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        """dT_i / dx_j at fixed world points, mm per mm; by forward mode unless a transform
        overrides it.

        Takes and gives what a call does, except that ``inrreg.Points`` give a tensor.
        """
        return forward_mode(self.displacement, points)[1] + torch.eye(
            self.ndim, dtype=points.dtype, device=points.device
        )

    def with_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites d"], Float[Tensor, "*sites d d"]]:
        """``displacement`` and ``jacobian``, for those who ask for both at once and for no
        gradient.
        """
        return self.displacement(points), self.jacobian(points)

    def displacement_on(self, grid: Grid) -> Float[Tensor, "*shape d"]:
        """u at every voxel of ``grid``, mm, in single precision, on the device of the transform."""
        return self._by_chunks(self.displacement, grid)

    def jacobian_on(self, grid: Grid) -> Float[Tensor, "*shape d d"]:
        """The Jacobian at every voxel of ``grid``."""
        return self._by_chunks(self.jacobian, grid)

    def materialised(self) -> "Transform":
        """The same map, and the same gradients, with what is alike for all points computed once:
        for one step, which asks it several times.
        """
        return self

    def inverse(self, tolerance_mm: float = 0.05) -> "Transform":
        """The map from moving to fixed world points, to ``tolerance_mm``; see ``NumericInverse``.

        Raises:
            InversionError: on evaluation, where a point cannot be inverted.
        """
        numeric_inverse: Any = TYPES["NumericInverse"]  # by its name, for its file imports this one
        inverted: Transform = numeric_inverse(self, tolerance_mm)
        return inverted

    def fitted_inverse(self) -> "Transform":
        """The map that is fitted beside this one to undo it, as closely as a penalty made it; any
        transform has an ``inverse``, solved for.

        Raises:
            TransformError: nothing was fitted beside this one.
        """
        raise TransformError(
            f"{type(self).__name__} has no map for the way back beside it; fit one that has,"
            " NeuralModel('nephi') without `lattice_mm`, or ask for inverse()"
        )

    def refine(self, spacing_mm: float) -> None:
        """Give the transform finer degrees of freedom without changing the map.

        Raises:
            TransformError: this transform has no lattice to refine.
        """
        raise TransformError(
            f"{type(self).__name__} has no lattice to refine to {spacing_mm} mm; leave"
            " `control_spacing` out of its levels"
        )

    @property
    def device(self) -> torch.device:
        return next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    def __repr__(self) -> str:
        parts = ", ".join(self._part_names())
        return f"{type(self).__name__}({f'{parts}; ' if parts else ''}{self._size()})"

    def _repr_html_(self) -> str:
        rows = {"parts, first applied first": ", ".join(self._part_names()), "size": self._size()}
        return html_table(type(self).__name__, {name: row for name, row in rows.items() if row})

    def _part_names(self) -> list[str]:
        modules = [module for _, module in self.named_modules(remove_duplicate=False)]
        parts = [module for module in modules if isinstance(module, Transform)]
        return [type(part).__name__ for part in parts[1:]]

    def _size(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.parameters())
        return f"{self.ndim}-D, {numbers} parameters"

    def _by_chunks(self, function: Any, grid: Grid) -> Tensor:
        points = grid.points(device=self.device).reshape(-1, self.ndim)
        values = torch.cat([function(part) for part in points.split(CHUNK)])
        return values.reshape(*grid.shape, *values.shape[1:])


def to_config(transform: Transform) -> dict[str, Any]:
    """The JSON description of ``transform``, tensors aside.

    Raises:
        TransformError: its class has the name of another one, so it could not be loaded again.
    """
    name = type(transform).__name__
    if TYPES[name] is not type(transform):
        raise TransformError(
            f"{type(transform).__module__}.{name} has the name of {TYPES[name].__module__}.{name},"
            " so it cannot be saved; rename the class"
        )
    return {"type": type(transform).__name__, **transform.config()}


def from_config(config: dict[str, Any]) -> Transform:
    """The transform of a description, with placeholder tensors.

    Raises:
        TransformError: no class of that name has been made.
    """
    if config.get("type") not in TYPES:
        raise TransformError(
            f"no transform type is called {config.get('type')!r}; known are {', '.join(TYPES)}"
        )
    return TYPES[config["type"]].from_config(config)
