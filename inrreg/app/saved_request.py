"""Read back what config.json says of a request."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from inrreg.app.lesion_masks import in_mask_mode
from inrreg.core.errors import InputError
from inrreg.core.hashes import hash_file
from inrreg.presets import PRESETS, with_settings
from inrreg.transforms.description import described

INPUTS = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "landmarks",
    "guide_landmarks",
    "fixed_lesion_mask",
    "moving_lesion_mask",
)
"""Fields of ``Request`` that are the inputs in config.json."""
FOUND = "found by the preset"
"""What config.json has as the source of a mask that was not given."""
OPTIONS = ("settings", "mask_mode", "device", "seed", "threads", "max_memory_mb")
"""Fields of ``Request`` that config.json has under their own name."""


def read_request(path: str | Path, changed: Collection[str]) -> dict[str, Any]:
    """The fields of the ``Request`` that a config.json describes, without those ``changed``.

    Raises:
        InputError: the file is not a config.json, an input was given in memory, an input file is
            missing or has changed, or the preset is not the one of that run.
    """
    config = _config(path)
    values: dict[str, Any] = {name: config[name] for name in OPTIONS if name not in changed}
    for name in INPUTS:
        if name not in changed:
            values[name] = _source(config["inputs"][name], name, path)
    if "contrasts" not in changed:
        values["contrasts"] = tuple(
            (
                _source(fixed, f"fixed contrast {number}", path),
                _source(moving, f"moving contrast {number}", path),
            )
            for number, (fixed, moving) in enumerate(config["contrasts"], start=2)
        )
    if "initial" not in changed and config["initial"] is not None:
        raise InputError(
            f"{path}: the initial transform was given in memory; run it again in Python with"
            " Request.from_json(path, initial=...)"
        )
    if "preset" not in changed:
        values["preset"] = _preset_name(config, path, compare="settings" not in changed)
    return values


def _config(path: str | Path) -> Mapping[str, Any]:
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); give the config.json of a result folder"
        ) from error
    needed = {*OPTIONS, "inputs", "contrasts", "initial", "preset"}
    if not isinstance(config, dict) or not needed <= set(config):
        raise InputError(
            f"{path} does not hold a whole request; give the config.json of a result folder that"
            " this version of inrreg has written"
        )
    return config


def _source(entry: Mapping[str, Any] | None, name: str, path: str | Path) -> Any:
    """The path, or the two paths, of one input."""
    if entry is None or entry.get("object") == FOUND:
        return None
    shown = name.replace("_", " ")
    if "object" in entry:
        raise InputError(
            f"{path}: the {shown} was given in memory ({entry['object']}), so config.json has no"
            f" path of it; run it again in Python with Request.from_json(path, {name}=...)"
        )
    files = entry["files"] if "files" in entry else [entry["file"]]
    hashes = entry["files_sha256"] if "files" in entry else [entry["file_sha256"]]
    for file, expected in zip(files, hashes, strict=True):
        if not Path(file).is_file():
            raise InputError(f"{path}: the {shown} {file} is not there; restore it or give another")
        if hash_file(file) != expected:
            raise InputError(
                f"{path}: the {shown} {file} is not the file of that run (its SHA-256 differs);"
                " restore it, or give the file explicitly"
            )
    return tuple(map(Path, files)) if "files" in entry else Path(files[0])


def _preset_name(config: Mapping[str, Any], path: str | Path, *, compare: bool) -> str:
    """The name of the preset, which must still be the preset of that run."""
    name = str(config["preset"]["name"])
    if name not in PRESETS:
        raise InputError(
            f"{path}: the preset {name!r} was given in memory; run it again in Python with"
            " Request.from_json(path, preset=...)"
        )
    if compare:
        preset = with_settings(PRESETS[name](), config["settings"] or {})
        if described(in_mask_mode(preset, config["mask_mode"])) != config["preset"]:
            raise InputError(
                f"{path}: the preset {name!r} of this installation differs from the one of that run"
                f" (inrreg {config.get('inrreg')}); give the preset explicitly to accept that"
            )
    return name
