"""Single precision keeps its bits inside the guard; the caller's settings come back after it."""

from collections.abc import Iterator

import pytest
import torch

from inrreg.core.precision import full_single_precision


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The settings of the process are those of before each test."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def allowed() -> tuple[bool, bool]:
    """Whether TF32 is allowed for matrix products and for convolutions."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [(True, True), (False, True), (True, False), (False, False)])
def test_tf32_is_off_inside_and_as_before_afterwards(before: tuple[bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with full_single_precision():
        assert allowed() == (False, False)
    assert allowed() == before


def test_the_settings_come_back_after_an_error() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(ZeroDivisionError), full_single_precision():
        raise ZeroDivisionError
    assert allowed() == (True, True)
