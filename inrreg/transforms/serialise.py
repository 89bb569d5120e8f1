"""Saving and loading transforms: weights as safetensors, everything else as JSON."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inrreg.core.errors import TransformError
from inrreg.transforms.base import Transform, from_config, to_config

FRAME = "RAS mm; maps fixed world points to moving world points"
SCHEMA = 1


def save_transform(transform: Transform, folder: Path) -> None:
    """Write ``folder/transform.json`` and ``folder/weights.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {"schema": SCHEMA, "frame": FRAME, "transform": to_config(transform)}
    (folder / "transform.json").write_text(json.dumps(description, indent=1) + "\n")
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in transform.state_dict().items()
    }
    # save_file would keep the file from everybody else
    (folder / "weights.safetensors").write_bytes(save(weights))


def load_transform(folder: Path, device: torch.device | str = "cpu") -> Transform:
    """Read what ``save_transform`` wrote.

    Raises:
        TransformError: files that are missing, damaged, or of another schema.
    """
    try:
        description = json.loads((folder / "transform.json").read_text())
        weights = load_file(str(folder / "weights.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise TransformError(
            f"{folder} holds no readable transform ({error}); point to a folder that inrreg wrote"
        ) from error
    schema = description.get("schema") if isinstance(description, dict) else None
    if schema != SCHEMA:
        raise TransformError(
            f"{folder} has transform schema {schema}, this version reads {SCHEMA}; load it with the"
            " version that wrote it"
        )
    try:
        transform = from_config(description["transform"])
        # assigned: each tensor keeps the precision it was saved in; cloned: aligned memory, on
        # which products round as they did before
        transform.load_state_dict(
            {name: value.clone() for name, value in weights.items()}, assign=True
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise TransformError(
            f"{folder}: transform.json and weights.safetensors are incomplete or not of the same"
            f" transform ({error}); save it again"
        ) from error
    return transform.to(device).requires_grad_(False)
