"""Every operation with two forms: torch and the compiled loops give the same, and so do threads,
strides, precisions and NaN. An operation is tested by being registered.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import inrreg.ops
from inrreg.core.threads import limit_threads
from inrreg.ops.dispatch import OPERATIONS, Operation, second_derivatives

for found in pkgutil.walk_packages(inrreg.ops.__path__, "inrreg.ops."):
    importlib.import_module(found.name)

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}
"""Relative to the largest value: what another order of sums changes."""

each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
in_2d_and_3d = pytest.mark.parametrize("ndim", [2, 3])
each_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def arguments(operation: Operation, ndim: int, dtype: torch.dtype, seed: int = 0) -> list[Any]:
    """The example of an operation in one precision."""
    if dtype not in operation.dtypes:
        pytest.skip(f"the compiled form takes {operation.dtypes}")
    example = operation.example(ndim, torch.Generator().manual_seed(seed))
    return [cast(value, dtype) for value in example]


def cast(value: Any, dtype: torch.dtype) -> Any:
    floating = value.is_floating_point() if isinstance(value, Tensor) else hasattr(value, "to")
    return value.to(dtype) if floating else value


def applied(form: Callable[..., Any], values: list[Any]) -> tuple[Any, list[Any]]:
    """What a form returns, and what it leaves of its arguments: some change theirs in place."""
    copies = [value.clone() if isinstance(value, Tensor) else value for value in values]
    return form(*copies), copies


def assert_same(found: Any, expected: Any, dtype: torch.dtype) -> None:
    """Equal structure, integers equal, floating-point values within ``TOLERANCE``: that of the
    arguments, or of the result where it is the coarser.
    """
    if isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, dtype)
    elif isinstance(expected, Tensor) and expected.is_floating_point():
        size = float(expected.detach().abs().nan_to_num().max()) if expected.numel() else 1.0
        torch.testing.assert_close(
            found.to(expected.dtype),
            expected,
            rtol=0,
            atol=max(TOLERANCE[dtype], TOLERANCE[expected.dtype]) * max(size, 1e-3),
            equal_nan=True,
        )
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif not isinstance(expected, float | complex):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=TOLERANCE[dtype], nan_ok=True)


def differentiable(operation: Operation, values: list[Any]) -> list[Tensor]:
    """The tensors that the torch form can be differentiated by, made to need a gradient."""
    with torch.no_grad():
        _, copies = applied(operation.torch_form, values)
        kept = [
            not isinstance(v, Tensor) or torch.equal(v, c)
            for v, c in zip(values, copies, strict=True)
        ]
    if not all(kept):
        return []  # it changes its arguments in place
    tensors = floating(values)
    for tensor in tensors:
        tensor.requires_grad_(True)
    outputs = floating(operation.torch_form(*values))
    total = [output.sum() for output in outputs if output.requires_grad]
    if not total:
        return []
    gradients = torch.autograd.grad(torch.stack(total).sum(), tensors, allow_unused=True)
    return [t for t, gradient in zip(tensors, gradients, strict=True) if gradient is not None]


def floating(outputs: Any) -> list[Tensor]:
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [out for out in outputs if isinstance(out, Tensor) and out.is_floating_point()]


def gradients(form: Callable[..., Any], values: list[Any], by: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum with uneven weights of all outputs."""
    outputs = floating(form(*values))
    weights = [torch.linspace(0.5, 1.5, out.numel()).view(out.shape).to(out) for out in outputs]
    total = torch.stack([(out * w).sum() for out, w in zip(outputs, weights, strict=True)]).sum()
    return torch.autograd.grad(total, by)


@each_operation
@each_precision
@in_2d_and_3d
def test_both_forms_give_the_same(operation: Operation, ndim: int, dtype: torch.dtype) -> None:
    for seed in range(3):
        values = arguments(operation, ndim, dtype, seed)
        expected = applied(operation.torch_form, values)
        assert_same(applied(operation.compiled_form, values), expected, dtype)


@each_operation
@in_2d_and_3d
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(
    operation: Operation, ndim: int, threads: int
) -> None:
    values = arguments(operation, ndim, operation.dtypes[-1])
    with limit_threads(1):
        expected = applied(operation.compiled_form, values)
    with limit_threads(threads):
        assert_same(applied(operation.compiled_form, values), expected, torch.float64)


@each_operation
@in_2d_and_3d
def test_strides_change_nothing(operation: Operation, ndim: int) -> None:
    values = arguments(operation, ndim, operation.dtypes[-1])
    strided = [
        torch.stack([v, torch.full_like(v, 7)], -1)[..., 0] if isinstance(v, Tensor) else v
        for v in values
    ]
    expected = applied(operation.compiled_form, values)
    assert_same((operation.compiled_form(*strided), strided), expected, torch.float64)


@each_operation
@in_2d_and_3d
def test_both_forms_spread_nan_alike(operation: Operation, ndim: int) -> None:
    if not operation.nan_alike:
        pytest.skip("the torch form spreads them further")
    values = arguments(operation, ndim, operation.dtypes[-1])
    if not floating(values):
        pytest.skip("no argument can hold a NaN")
    first = floating(values)[0]
    first.view(-1)[first.numel() // 2] = float("nan")
    expected = applied(operation.torch_form, values)
    assert_same(applied(operation.compiled_form, values), expected, operation.dtypes[-1])


@each_operation
@in_2d_and_3d
def test_compiled_nan_are_no_more_than_those_of_torch(operation: Operation, ndim: int) -> None:
    if operation.nan_alike:
        pytest.skip("both forms spread them alike")
    values = arguments(operation, ndim, operation.dtypes[-1])
    first = floating(values)[0]
    first.view(-1)[first.numel() // 2] = float("nan")
    outputs = zip(
        floating(operation.compiled_form(*values)),
        floating(operation.torch_form(*values)),
        strict=True,
    )
    for found, expected in outputs:
        assert found.isnan().any()
        assert not (found.isnan() & ~expected.isnan()).any()
        finite = expected.nan_to_num().where(~expected.isnan(), found)
        assert_same(found, finite, operation.dtypes[-1])


@each_operation
@each_precision
@in_2d_and_3d
def test_first_derivatives_agree(operation: Operation, ndim: int, dtype: torch.dtype) -> None:
    values = arguments(operation, ndim, dtype)
    by = differentiable(operation, values)
    if not by or operation.form_for(values) is operation.torch_form:
        pytest.skip("nothing that the compiled form is differentiated by")
    assert_same(
        gradients(operation.compiled_form, values, by),
        gradients(operation.torch_form, values, by),
        dtype,
    )


@each_operation
@in_2d_and_3d
def test_the_compiled_derivative_is_the_slope(operation: Operation, ndim: int) -> None:
    if torch.float64 not in operation.dtypes:
        pytest.skip("finite differences need double precision")
    values = arguments(operation, ndim, torch.float64)
    by = differentiable(operation, values)
    if not by or operation.form_for(values) is operation.torch_form:
        pytest.skip("nothing that the compiled form is differentiated by")
    places = [next(i for i, v in enumerate(values) if v is t) for t in by]

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        filled = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        found = floating(operation.compiled_form(*filled))
        return tuple(out for out in found if out.requires_grad)

    assert torch.autograd.gradcheck(outputs, tuple(by), fast_mode=True, nondet_tol=0.0)


@each_operation
def test_the_public_function_chooses(operation: Operation) -> None:
    values = arguments(operation, 3, operation.dtypes[0])
    assert operation.form_for(values) is operation.compiled_form
    if floating(values):
        half = [cast(value, torch.bfloat16) for value in values]
        assert operation.form_for(half) is operation.torch_form
    elsewhere = [v.to("meta") if isinstance(v, Tensor) else v for v in values]
    assert operation.form_for(elsewhere) is operation.torch_form
    with second_derivatives():
        assert operation.form_for(values) is operation.torch_form
