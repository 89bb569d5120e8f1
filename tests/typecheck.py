"""What checks array shapes while the tests run: beartype, on the annotations that state a shape and
on no others.

Static types are the type checker's business; some of them (numpy's ArrayLike, Self) have no
run-time meaning that beartype can test.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its jaxtyping annotations enforced."""
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _states_shape(hint)
    }
    return beartype(function)


def _states_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(
        _states_shape(inner) for inner in get_args(hint)
    )
