"""Change single values of a preset by name, such as ``continuous.optimiser.learning_rate``.

A name is a path of fields that starts with the name of a stage, or with a field of the preset
itself. A stage that wraps another one passes the names of the inner stage through. An item of a
tuple has its own ``name`` where it has one, else its number from 0: ``continuous.scales.0.
iterations``, ``continuous.similarities.lncc.window_mm``. Where two items have the same name, the
second is called ``name-2``.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from inrreg.core.errors import InputError
from inrreg.presets.base import Preset

SCALARS = (bool, int, float, str)


@dataclass(frozen=True, eq=False)
class Setting:
    """One value: its type, and what gives the changed owner for a new value."""

    hint: Any
    changed: Callable[[Any], Any]


def setting_names(preset: Preset) -> list[str]:
    """The names that ``with_settings`` knows for a preset."""
    return list(_settings_of(preset))


def with_settings(preset: Preset, settings: Mapping[str, object]) -> Preset:
    """``preset`` with other values; a value is what the field takes, or its text.

    Raises:
        InputError: an unknown name, or a value of another type or out of range.
    """
    for name, value in settings.items():
        known = _settings_of(preset)
        if name not in known:
            nearest = get_close_matches(name, known, 1, 0.0)
            raise InputError(
                f"the preset {preset.name!r} has no setting {name!r}; the nearest is"
                f" {nearest[0] if nearest else 'none'!r}"
            )
        setting = known[name]
        preset = setting.changed(_typed(setting.hint, value, name))
    return preset


def _settings_of(preset: Preset) -> dict[str, Setting]:
    own = {
        name: setting
        for name, setting in _fields_of(preset, lambda changed: changed).items()
        if name.partition(".")[0] not in ("name", "description", "stages")
    }
    return own | _items_of(preset.stages, lambda stages: replace(preset, stages=stages))


def _fields_of(owner: Any, changed: Callable[[Any], Any]) -> dict[str, Setting]:
    """The settings below a dataclass; ``changed`` puts another one in its place."""
    hints = get_type_hints(type(owner))
    found: dict[str, Setting] = {}
    for each in fields(owner):

        def with_value(value: Any, name: str = each.name) -> Any:
            return changed(replace(owner, **{name: value}))

        value = getattr(owner, each.name)
        below = _below(value, hints[each.name], with_value)
        if each.name in ("stage", "registration") and is_dataclass(value):
            # a wrapper has the name of the stage that it runs, so their settings share a prefix
            found.update({name: setting for name, setting in below.items() if name not in found})
        elif each.name != "name":
            found.update({_joined(each.name, name): setting for name, setting in below.items()})
    return found


def _below(value: Any, hint: Any, changed: Callable[[Any], Any]) -> dict[str, Setting]:
    """The settings below one value: the value itself, under the empty name, or its parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value, changed)
    if isinstance(value, Mapping):
        found: dict[str, Setting] = {}
        for key, item in value.items():

            def with_item(new: Any, key: str = key) -> Any:
                return changed({**value, key: new})

            below = _below(item, type(item), with_item)
            found.update({_joined(str(key), name): each for name, each in below.items()})
        return found
    if isinstance(value, tuple) and value and any(is_dataclass(item) for item in value):
        return _items_of(value, changed)
    return {"": Setting(hint, changed)} if _is_leaf(hint) else {}


def _items_of(items: tuple[Any, ...], changed: Callable[[Any], Any]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    names: list[str] = []
    for number, item in enumerate(items):
        name = str(getattr(item, "name", number))
        names.append(name)
        unique = name if names.count(name) == 1 else f"{name}-{names.count(name)}"

        def with_item(new: Any, number: int = number) -> Any:
            return changed((*items[:number], new, *items[number + 1 :]))

        below = _below(item, type(item), with_item)
        found.update({_joined(unique, name): setting for name, setting in below.items()})
    return found


def _joined(first: str, second: str) -> str:
    return f"{first}.{second}" if second else first


def _is_leaf(hint: Any) -> bool:
    """Whether a text can be turned into a value of that type."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(each is type(None) or _is_leaf(each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return all(each is Ellipsis or each in SCALARS for each in get_args(hint))
    return hint in SCALARS or get_origin(hint) is Literal


def _typed(hint: Any, value: Any, name: str) -> Any:
    """``value``, or what its text says, as the type of a field."""
    try:
        return _converted(hint, value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the setting {name} takes {_named(hint)}, but was given {value!r}"
        ) from error


def _converted(hint: Any, value: Any) -> Any:
    """Raises TypeError or ValueError where ``value`` is not of the type ``hint``."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_converted(options, value)
    if origin is Literal:
        if value not in options:
            raise ValueError(value)
        return value
    if origin is tuple:
        return _converted_tuple(options, value)
    if hint is type(None):
        if value is not None and value != "none":
            raise ValueError(value)
        return None
    if hint is bool:
        return _converted_bool(value)
    accepted = {int: (int, str), float: (float, int, str), str: (str,)}[hint]
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise TypeError(value)
    return hint(value)


def _converted_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(value)
    return bool(value == "true")


def _first_converted(options: tuple[Any, ...], value: Any) -> Any:
    for option in sorted(options, key=lambda each: each is not type(None)):
        try:
            return _converted(option, value)
        except (TypeError, ValueError):
            continue
    raise ValueError(value)


def _converted_tuple(options: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    items = value.split(",") if isinstance(value, str) else list(value)
    hints = [options[0]] * len(items) if Ellipsis in options else list(options)
    return tuple(_converted(each, item) for each, item in zip(hints, items, strict=True))


def _named(hint: Any) -> str:
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    if get_origin(hint) in (Union, types.UnionType):
        names = ["none" if each is type(None) else _named(each) for each in get_args(hint)]
        return " or ".join(names)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "numbers with commas between them"
    return words[hint]
