"""Checks of settings, called where a settings dataclass is made; None means "not set" and passes.

Each check raises an InputError that names the class, the field and the value.
"""

import math
from numbers import Integral, Real
from typing import Any

from inrreg.core.errors import InputError


def check_above_zero(settings: object, *names: str) -> None:
    """Whether these fields are finite numbers above 0.

    Raises:
        InputError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise _refused(settings, name, "a finite number above 0", value)


def check_not_negative(settings: object, *names: str) -> None:
    """Whether these fields are finite numbers of 0 or more.

    Raises:
        InputError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (_is_number(value) and value >= 0):
            raise _refused(settings, name, "a finite number of 0 or more", value)


def check_fraction(settings: object, *names: str) -> None:
    """Whether these fields are numbers from 0 to 1.

    Raises:
        InputError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise _refused(settings, name, "a number from 0 to 1", value)


def check_count(settings: object, *names: str, least: int = 1) -> None:
    """Whether these fields are whole numbers of ``least`` or more.

    Raises:
        InputError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (
            isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
        ):
            raise _refused(settings, name, f"a whole number of {least} or more", value)


def check_tuple(settings: object, name: str, example: str) -> None:
    """Whether this field is a tuple; ``example`` is one.

    Raises:
        InputError: it is not.
    """
    value = getattr(settings, name)
    if not isinstance(value, tuple):
        raise _refused(settings, name, f"a tuple, for instance {name}={example}", value)


def check_any(settings: object, name: str, item: str, example: str) -> None:
    """Whether this field is a tuple with at least one ``item``; ``example`` is one.

    Raises:
        InputError: it is not.
    """
    check_tuple(settings, name, example)
    if not getattr(settings, name):
        raise InputError(
            f"{type(settings).__name__}: {name} must be a tuple that is not empty; it"
            f" needs at least one {item}, for instance {name}={example}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _refused(settings: object, name: str, expected: str, value: Any) -> InputError:
    return InputError(f"{type(settings).__name__}: {name} must be {expected}, got {value!r}")
