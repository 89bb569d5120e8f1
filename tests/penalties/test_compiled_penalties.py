"""Penalties by compiled loops against torch's operations, in value and derivative, on every layout
of a Jacobian.
"""

import pytest
import torch
from torch import Tensor

from inrreg.objective.samplers import Sites
from inrreg.objective.step import Step, Term
from inrreg.ops.determinants import determinants
from inrreg.ops.dispatch import OPERATIONS
from inrreg.ops.jacobian_entries import as_jacobian, entries
from inrreg.ops.small_matrices import determinant
from inrreg.penalties import Bending, Folding, TotalVariation

SHAPES = [(1, 7, 6), (3, 2, 5), (1, 5, 4, 6), (2, 2, 3, 2), (1, 11, 13, 9)]


class Bent:
    """A step of which only the Jacobian is asked for."""

    def __init__(self, jacobian: Tensor, spacing: tuple[float, ...]) -> None:
        self.jacobian, self.sites = jacobian, Sites(torch.zeros(*jacobian.shape[:-1]), spacing)


def slopes(step: Step) -> Tensor:
    both_forms = OPERATIONS["inrreg.ops.bending_energy.bending_energy"]
    value: Tensor = both_forms.torch_form(step.jacobian, step.sites.spacing)
    return value


def variation(step: Step) -> Tensor:
    gradient = step.jacobian - torch.eye(step.jacobian.shape[-1], dtype=step.jacobian.dtype)
    return (torch.sqrt(gradient.square().sum((-1, -2)) + 0.05**2) - 0.05).mean()


def folding(step: Step) -> Tensor:
    return ((0.6 - determinant(step.jacobian)).clamp(min=0) / 0.6).square().mean()


EACH = pytest.mark.parametrize(
    ("penalty", "plain"),
    [
        (Bending(), slopes),
        (TotalVariation(smoothing=0.05), variation),
        (Folding(least=0.6), folding),
    ],
    ids=["bending", "variation", "folding"],
)


def jacobian_of(shape: tuple[int, ...], generator: torch.Generator, rendered: bool) -> Tensor:
    """About the identity, folded here and there, laid out as rendered or as computed at points."""
    d = len(shape) - 1
    drawn = torch.randn(d, d, *shape, generator=generator, dtype=torch.float64)
    jacobian = as_jacobian(
        0.4 * drawn + torch.eye(d, dtype=torch.float64).reshape(d, d, *[1] * len(shape))
    )
    return jacobian if rendered else jacobian.contiguous()


def both(term: Term, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    jacobian = jacobian.detach().requires_grad_()
    value = 3 * term(Bent(jacobian, (2.0, 3.0, 1.5)[: jacobian.shape[-1]]))  # type: ignore[arg-type]
    return value.detach().double(), torch.autograd.grad(value, jacobian)[0].double()


@EACH
@pytest.mark.parametrize("rendered", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_penalties_are_torchs(
    penalty: Term, plain: Term, shape: tuple[int, ...], rendered: bool, generator: torch.Generator
) -> None:
    jacobian = jacobian_of(shape, generator, rendered)
    (value, gradient), (expected, slope) = both(penalty, jacobian), both(plain, jacobian)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12 * float(slope.abs().max()))
    assert gradient.shape == jacobian.shape
    (value, gradient), (expected, slope) = (
        both(penalty, jacobian.float()),
        both(plain, jacobian.float().double()),
    )
    # a sum of some thousand numbers of single precision
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=2e-6 * float(slope.abs().max()))


@EACH
@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 2, 3)])
def test_derivatives_are_those_of_the_values(
    penalty: Term, plain: Term, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    jacobian = jacobian_of(shape, generator, True).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda j: penalty(Bent(j, (2.0, 3.0, 1.5)[: j.shape[-1]])), jacobian
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_entries_come_first_and_go_back(shape: tuple[int, ...], generator: torch.Generator) -> None:
    jacobian = jacobian_of(shape, generator, True)
    assert entries(jacobian).data_ptr() == jacobian.data_ptr()  # no copy
    torch.testing.assert_close(
        as_jacobian(entries(jacobian.contiguous())), jacobian, rtol=0, atol=0
    )
    torch.testing.assert_close(determinants(jacobian), torch.linalg.det(jacobian))


@EACH
def test_more_sites_than_are_looked_at_together_and_nan(
    penalty: Term, plain: Term, generator: torch.Generator
) -> None:
    jacobian = jacobian_of((1, 30, 70), generator, True)
    torch.testing.assert_close(both(penalty, jacobian), both(plain, jacobian))
    jacobian[0, 3, 4, 0, 0] = torch.nan
    # a determinant that is no number is not below anything
    assert both(penalty, jacobian)[0].isnan() == (penalty.name != "folding")
