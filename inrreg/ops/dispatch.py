"""One choice between torch and compiled loops, for every operation that has both forms.

An operation is one folder in ``ops/``. Its ``__init__.py`` defines the public function, whose body
is the torch form: it runs on every device and in every precision, and torch differentiates it as
often as asked. Its ``compiled.py`` defines a function of the same name and arguments, the compiled
form: it runs on the CPU, calls loops that numba compiles, and brings its own first derivative.
``operation`` joins the two and registers them:

    @operation(compiled="inrreg.ops.farthest_points.compiled", example=_example)
    def points_between(points, others, count, gap_mm):
        ...

A call runs the compiled form where every tensor lies on the CPU in a supported precision and no
second derivative is asked for, else the torch form. An operation may name one more condition: a
compiled form without a derivative serves ``when=unrecorded``. numba is imported by the first call
that needs it. ``tests/ops/test_conformance.py`` holds the two forms of every registered operation
to the same values and derivatives.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")
Example = Callable[[int, torch.Generator], tuple[Any, ...]]
"""Arguments of an operation in 2-D or 3-D, floating-point tensors in double precision."""

Condition = Callable[[Sequence[Any]], bool]

SINGLE_AND_DOUBLE = (torch.float32, torch.float64)
_second_derivatives: ContextVar[bool] = ContextVar("second derivatives", default=False)


@dataclass(frozen=True)
class Operation:
    """Both forms of an operation, and what decides between them."""

    name: str
    torch_form: Callable[..., Any]
    module: str
    """Of the compiled form, which has the name of the torch form."""
    example: Example
    dtypes: tuple[torch.dtype, ...]
    when: Condition | None
    """What else the compiled form asks of the arguments."""
    nan_alike: bool
    """Whether a NaN reaches the same values in both forms; if not, it may reach more values in the
    torch form, because the zeros of a dense matrix spread it.
    """

    @property
    def compiled_form(self) -> Callable[..., Any]:
        """The compiled form; its first use imports numba."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.torch_form.__name__)
        return function

    def form_for(self, arguments: Sequence[Any]) -> Callable[..., Any]:
        """The form that serves these arguments."""
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        compiles = not _second_derivatives.get() and all(
            each.device.type == "cpu"
            and (each.dtype in self.dtypes or not each.is_floating_point())
            for each in tensors
        )
        compiles = compiles and (self.when is None or self.when(arguments))
        return self.compiled_form if compiles else self.torch_form


OPERATIONS: dict[str, Operation] = {}
"""Every operation with two forms, by the place and name of its public function."""


def operation(
    *,
    compiled: str,
    example: Example,
    dtypes: tuple[torch.dtype, ...] = SINGLE_AND_DOUBLE,
    when: Condition | None = None,
    nan_alike: bool = True,
) -> Callable[[Callable[Arguments, Value]], Callable[Arguments, Value]]:
    """Register a torch form, the decorated function, beside its compiled form.

    Args:
        compiled: the module with a function of the same name and arguments.
        example: arguments that ``tests/ops/test_conformance.py`` calls both forms with.
        dtypes: precisions of floating-point tensors that the compiled form takes; tensors of
            integers and of booleans are not asked.
        when: one more condition for the compiled form, asked with all arguments of a call.
        nan_alike: whether a NaN reaches the same values in both forms.
    """

    def register(torch_form: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
        name = f"{torch_form.__module__}.{torch_form.__name__}"
        both = OPERATIONS[name] = Operation(
            name, torch_form, compiled, example, dtypes, when, nan_alike
        )

        @wraps(torch_form)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
            value: Value = both.form_for((*args, *kwargs.values()))(*args, **kwargs)
            return value

        return call

    return register


def unrecorded(arguments: Sequence[Any]) -> bool:
    """Whether torch records nothing for a derivative by these arguments."""
    return not torch.is_grad_enabled() or not any(
        isinstance(each, Tensor) and each.requires_grad for each in arguments
    )


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Inside the block every operation runs its torch form, which torch differentiates twice."""
    token = _second_derivatives.set(True)
    try:
        yield
    finally:
        _second_derivatives.reset(token)


def as_volume(values: Tensor, ndim: int) -> Tensor:
    """``values``, whose last ``ndim`` axes are spatial, with three of them.

    A plane ``[i, j]`` becomes ``[i, 1, j]``: rows along the last axis stay whole vectors, and
    threads still share the first. Every compiled form lifts 2-D to 3-D in this way.
    """
    return values.unsqueeze(-2) if ndim == 2 else values


def components_in_three(vectors: Shaped[Tensor, "d *sites"]) -> Shaped[Tensor, "3 *sites"]:
    """Vectors of two components with a 0 between them, in the order of ``as_volume``."""
    if len(vectors) == 3:
        return vectors
    return torch.stack([vectors[0], torch.zeros_like(vectors[0]), vectors[1]])


def in_three(lengths: Sequence[Any], ndim: int, fill: Any = 1.0) -> list[Any]:
    """One number (or else) an axis as three, in the order of ``as_volume``."""
    return [lengths[0], fill, lengths[1]] if ndim == 2 else list(lengths)
