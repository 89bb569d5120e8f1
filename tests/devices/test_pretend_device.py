"""The pretended device refuses what CUDA refuses, and counts."""

import pytest
import torch
from pretend_device import DEVICE, DeviceMismatchError, on_cpu, pretend_device


def test_it_computes_and_differentiates_as_the_cpu() -> None:
    with pretend_device() as counts:
        x = torch.tensor([1.0, 2.0], device=DEVICE, requires_grad=True)
        (x**3).sum().backward()
        assert x.grad is not None
        assert x.grad.device == DEVICE
        assert on_cpu(x.grad).tolist() == [3.0, 12.0]
    assert counts.copies_to_device == 1
    assert counts.copies_to_host == 1
    assert counts.launches > 0


def test_it_refuses_mixed_operands_numpy_and_a_cpu_generator() -> None:
    with pretend_device():
        x = torch.ones(2, device=DEVICE)
        with pytest.raises(DeviceMismatchError, match="together"):
            x + torch.ones(2)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(DeviceMismatchError, match="generator"):
            torch.rand(2, device=DEVICE, generator=torch.Generator())
