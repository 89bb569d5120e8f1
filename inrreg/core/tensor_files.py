"""Tensors and their description in one file.

The format is safetensors with a JSON description in the header. A file is written completely or
not at all.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from inrreg.core.errors import InputError, OutputError


def write_tensors(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
) -> None:
    """Write ``tensors`` and their ``description`` (JSON values).

    ``kind`` is the key of the description in the header.

    Raises:
        OutputError: it cannot be written.
    """
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_whole(save(copies, metadata={kind: json.dumps(description)}), Path(path))


def read_tensors(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_tensors`` wrote under ``kind``, on the CPU.

    Raises:
        InputError: no such file, or of another kind, or damaged.
    """
    try:
        with safe_open(os.fspath(path), "pt") as file:
            description = json.loads(file.metadata()[kind])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} holds no {kind} of ours or is damaged ({type(error).__name__}: {error}); give"
            " a file that this package wrote"
        ) from error
    return tensors, description


def write_whole(content: bytes, path: Path) -> None:
    """Write beside ``path`` and rename.

    Raises:
        OutputError: it cannot be written.
    """
    part: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise OutputError(
            f"{path} could not be written ({error.strerror}); free some space or choose another"
            " place"
        ) from error
