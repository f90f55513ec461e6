"""Files of tensors: safetensors, npz and torch checkpoints, told apart by their bytes and read without running code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from neurosae.errors import UserError

_SUFFIXES = {".safetensors", ".npz", ".pt", ".pth"}
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_BROKEN = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, SafetensorError)


class TensorInfo(NamedTuple):
    """What a header says about a tensor."""

    shape: tuple[int, ...]
    dtype: str


def kind(path: Path) -> str | None:
    """The container of a file by its first bytes: "safetensors", "zip", "pickle", or None for no file of tensors.

    A file that is named like one and is none counts as "unknown", so that it is reported instead of passed over.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"PK"):
        return "zip"
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER:
        return "safetensors"
    if start[:1] == b"\x80":
        return "pickle"
    return "unknown" if path.suffix in _SUFFIXES else None


def header(path: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of the tensors in a file, without their values.

    Raises
    ------
    UserError
        A truncated or foreign file, or one that would have to run code to be read.
    """
    return _guarded(_header, path)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, on the CPU and in the precision they are stored in.

    Those of safetensors and of torch's zip files are memory-mapped: only what is used is read. npz is read as a whole.
    Torch checkpoints are read with ``weights_only=True`` and npz with ``allow_pickle=False``: no file runs code.
    """
    return _guarded(_tensors, path)


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of arrays only."""
    if kind(path) != "zip":
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _guarded(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is a pickle with more than tensors in it and was not opened ({_first_line(error)})",
            where="sae",
            allowed="torch checkpoints that load with weights_only=True",
            suggestion="Save the bare state_dict again, best as safetensors",
        ) from error
    except _BROKEN as error:
        raise UserError(
            f"{path} holds no complete SAE ({_first_line(error)})",
            where="sae",
            allowed="complete safetensors, npz and torch files",
            suggestion="Fetch the file again; it may have been cut short",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _header(path: Path) -> dict[str, TensorInfo]:
    container = kind(path)
    if container == "safetensors":
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    if is_npz(path):
        return _npz_header(path)
    if container in {"zip", "pickle"}:
        # On the meta device shapes are known and values are not read.
        return {name: TensorInfo(tuple(t.shape), _dtype(t)) for name, t in _state_dict(path, "meta").items()}
    raise ValueError("no safetensors, npz or torch file")


def _npz_header(path: Path) -> dict[str, TensorInfo]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise pickle.UnpicklingError(f"{member} holds Python objects")
            found[member.removesuffix(".npy")] = TensorInfo(tuple(shape), str(dtype))
    return found


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    container = kind(path)
    if container == "safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if is_npz(path):
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    return _state_dict(path, "cpu")


def _state_dict(path: Path, device: str) -> dict[str, torch.Tensor]:
    mapped = device == "cpu" and kind(path) == "zip"
    content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError("not a state_dict: a dictionary of tensors")
    return {str(name): value for name, value in content.items()}


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
