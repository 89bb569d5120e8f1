"""A pretended accelerator: CPU numbers in tensors that report another device.

Operations that mix devices raise, as they do on CUDA. The transfers and the operations are counted.
CUDA kernels, memory and precision are not covered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("lazy")
"""A device type that torch knows and that this build cannot compute on."""
aten = torch.ops.aten
_INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._unsafe_index.Tensor,
    aten._index_put_impl_.default,
)
_ACROSS_DEVICES = (aten.copy_.default, aten._to_copy.default)
_SCALAR_OPERANDS = (
    aten.fill_.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.where.self,
)
_SYNCHRONISING = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
)
_INDEX_TYPES = (torch.int64, torch.int32, torch.bool, torch.uint8)


class DeviceMismatchError(RuntimeError):
    """An operation met operands that CUDA would refuse together."""


@dataclass
class Counts:
    """What ran since the device was made: operations, copies and waits for the device."""

    launches: int = 0
    copies_to_device: int = 0
    copies_to_host: int = 0
    synchronisations: int = 0


_counts = Counts()


class PretendTensor(torch.Tensor):
    """A tensor that reports ``DEVICE``; ``inner`` holds its numbers on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "PretendTensor":
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of the pretended device to numpy; use cpu() first")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        raise DeviceMismatchError("the address of device memory was asked for")

    def tolist(self) -> Any:
        _counts.synchronisations += 1
        return self.inner.detach().tolist()

    def __repr__(self, **kwargs: Any) -> str:
        return f"PretendTensor({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True  # what makes isinstance(..., nn.Parameter) true
        memo[id(self)] = copied
        return copied


class _PretendMode(TorchDispatchMode):
    """Sends what is created on the device, or copied to it, through ``_computed``."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU numbers, after the checks that CUDA makes."""
    flat, structure = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, PretendTensor)]
    plain = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, PretendTensor)]
    named = kwargs.get("device")
    target = None if named is None else torch.device(named)
    if not ours and target != DEVICE:
        return func(*args, **kwargs)
    if any(isinstance(x, torch.Generator) for x in flat):
        raise DeviceMismatchError(f"{func}: a CPU generator for a device tensor")
    if ours and plain:
        _check_operands(func, flat, plain)
    _count(func, flat, bool(ours), target)
    values = [x.inner if isinstance(x, PretendTensor) else x for x in flat]
    inner_args, inner_kwargs = tree_unflatten(values, structure)
    inner_kwargs.pop("pin_memory", None)
    if target == DEVICE:
        inner_kwargs["device"] = torch.device("cpu")
    result = func(*inner_args, **inner_kwargs)
    if any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        written = {id(x.inner): x for x in ours}
        return tree_map(lambda x: written.get(id(x), x), result)
    if target is not None and target != DEVICE:
        return result
    return tree_map(lambda x: PretendTensor(x) if isinstance(x, Tensor) else x, result)


def _check_operands(func: Any, flat: list[Any], plain: list[Tensor]) -> None:
    """Raise where CUDA refuses CPU operands beside its own: single numbers may mix in pointwise
    operations, indices may lie on the CPU, copies may cross.
    """
    if func in _ACROSS_DEVICES:
        return
    if func in _INDEXING:
        if isinstance(flat[0], PretendTensor) and all(
            x.dim() == 0 or x.dtype in _INDEX_TYPES for x in plain
        ):
            return
    elif all(x.dim() == 0 for x in plain) and (
        torch.Tag.pointwise in func.tags or func in _SCALAR_OPERANDS
    ):
        return
    shapes = [tuple(x.shape) for x in plain]
    raise DeviceMismatchError(f"{func}: CPU tensors {shapes} together with device tensors")


def _count(func: Any, flat: list[Any], any_ours: bool, target: torch.device | None) -> None:
    to_host = func is aten._to_copy.default and any_ours and target not in (None, DEVICE)
    to_device = func is aten._to_copy.default and not any_ours
    if func is aten.copy_.default:
        source, destination = isinstance(flat[1], PretendTensor), isinstance(flat[0], PretendTensor)
        to_host, to_device = source and not destination, destination and not source
    _counts.copies_to_host += to_host
    _counts.copies_to_device += to_device
    _counts.synchronisations += to_host or func in _SYNCHRONISING
    _counts.launches += not any(r.alias_info is not None for r in func._schema.returns)


def _of_data(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` or ``torch.as_tensor`` that also reach the device; torch's own cannot."""

    def made(
        data: Any,
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Tensor:
        if isinstance(data, PretendTensor):
            return data.to(device=device or data.device, dtype=dtype or data.dtype)
        if device is None or torch.device(device) != DEVICE:
            created = original(data, dtype=dtype, device=device)
        else:
            created = original(data, dtype=dtype).to(DEVICE)
        return created.requires_grad_() if requires_grad else created

    return made


@contextmanager
def pretend_device() -> Iterator[Counts]:
    """Inside the block ``DEVICE`` works; yields the counts of what ran on it."""
    global _counts
    _counts = Counts()
    of_tensor, new_tensor = _of_data(torch.tensor), torch.Tensor.new_tensor

    def new_like(
        self: Tensor,
        data: Any,
        *,
        dtype: torch.dtype | None = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Tensor:
        on = torch.device(device or self.device)
        options = {"dtype": dtype or self.dtype, "device": on, "requires_grad": requires_grad}
        return (of_tensor if on == DEVICE else lambda d, **o: new_tensor(self, d, **o))(
            data, **options
        )

    with (
        patch("torch.tensor", of_tensor),
        patch("torch.as_tensor", _of_data(torch.as_tensor)),
        patch("torch.Tensor.new_tensor", new_like),
        _PretendMode(),
    ):
        yield _counts


def on_cpu(values: Tensor) -> Tensor:
    """The numbers, detached, on the CPU."""
    return values.detach().to("cpu")
