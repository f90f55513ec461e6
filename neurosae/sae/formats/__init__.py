"""SAE checkpoint formats on disk: one module per format, recognised by content, read into one `Checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from neurosae.errors import UserError
from neurosae.sae.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    plain_pytorch,
    saelens,
    sparsify,
    tensor_files,
)
from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles


class Reader(Protocol):
    """A module that reads one format.

    ``NAME`` and ``FILES`` are for messages; `matches` judges by header and configuration, never by file names;
    `hook_name` tells the hook without reading weights; `read` reads, checks and folds.
    """

    NAME: str
    FILES: str

    def matches(self, source: SavedFiles) -> bool:
        """Whether this is its format."""

    def hook_name(self, source: SavedFiles) -> str | None:
        """The hook in TransformerLens' name, None if the checkpoint does not say."""

    def read(self, source: SavedFiles) -> Checkpoint:
        """The SAE in the one orientation."""


# Those that ask for more come first: a module that reads bare tensors comes after those that need a configuration.
READERS: tuple[Reader, ...] = tuple(
    cast(Reader, module)
    for module in (
        saelens,
        dictionary_learning,
        llama_scope,
        sparsify,
        gemma_scope,
        gemma_scope_2,
        goodfire,
        plain_pytorch,
    )
)


def recognise(path: Path) -> tuple[Reader, SavedFiles]:
    """Find the format of a file or a folder by what is in it.

    Parameters
    ----------
    path : Path
        A file of tensors, or a folder that holds one SAE: its weights directly or one folder down.

    Returns
    -------
    Reader
    SavedFiles
        The weights that were recognised.

    Raises
    ------
    UserError
        No SAE, more than one, a broken file, or a pickle with more than tensors in it.
    """
    found, broken, seen = [], None, []
    for weights in _candidates(path):
        try:
            source = SavedFiles(weights, tensor_files.header(weights))
        except UserError as error:
            broken = broken or error
            continue
        reader = next((reader for reader in READERS if reader.matches(source)), None)
        if reader is None:
            seen.append(f"{weights.name}: {', '.join(list(source.header)[:6]) or 'no tensors'}")
        else:
            found.append((reader, source))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(source.weights.relative_to(path)) for _, source in found)
        raise UserError(f"{path} holds {len(found)} SAEs ({names})", where="sae", suggestion="Give one of the files")
    if broken:
        raise broken
    raise UserError(
        f"{path} holds no SAE" + (f" (tensors found: {'; '.join(seen)})" if seen else ""),
        where="sae",
        allowed="; ".join(f"{reader.NAME}: {reader.FILES}" for reader in READERS),
    )


def _candidates(path: Path) -> list[Path]:
    """Files of tensors: the path itself, or those in the folder, or else one folder down."""
    if path.is_file():
        return [path]
    for pattern in ("*", "*/*"):
        files = (file for file in sorted(path.glob(pattern)) if file.is_file() and file.suffix != ".json")
        if found := [file for file in files if tensor_files.kind(file) is not None]:
            return found
    return []
