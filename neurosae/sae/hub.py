"""Fetching one SAE of SAELens' registry from the Hugging Face hub, with errors a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from neurosae.errors import UserError
from neurosae.hub_access import setting
from neurosae.sae.registry import Entry, releases

# Files of one SAE in the formats that are read here; the others go through SAELens' own converters.
_FILES: dict[str | None, tuple[str, ...]] = {
    "gemma_2": ("params.npz",),
    "gemma_3": ("config.json", "params.safetensors"),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "dictionary_learning_1": ("config.json", "ae.pt"),
    "goodfire": ("",),
}
_OPTIONAL = {("gemma_3", "config.json")}  # without it, the folders' names tell the same


def fetch(entry: Entry) -> Path | None:
    """Fetch one SAE, and nothing else of its release, into the hub's cache.

    Returns
    -------
    Path or None
        Its weights; None if its format is one that only SAELens' converters read.

    Raises
    ------
    UserError
        No connection and nothing in the cache, a gated repository, files that are not there.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    about = releases()[entry.release]
    folder, found = about.saes_map[entry.sae_id], None
    if about.conversion_func not in _FILES or "clt" in folder:
        return None
    token = setting("HF_TOKEN")
    with hub_errors(about.repo_id):
        for name in _FILES[about.conversion_func]:
            optional = (about.conversion_func, name) in _OPTIONAL
            with suppress(EntryNotFoundError) if optional else nullcontext():
                found = Path(hf_hub_download(about.repo_id, f"{folder}/{name}".rstrip("/"), token=token))
    return found


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn what the hub raises into a message."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"'{repository}' is gated",
            where="sae",
            suggestion=f"Accept its licence at huggingface.co/{repository}, then put HF_TOKEN=... into the environment "
            "or .env",
        ) from error
    except HfHubHTTPError as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(f"The hub refuses a file of '{repository}': {first_line}", where="sae") from error
    except (LocalEntryNotFoundError, OSError, HTTPError) as error:
        raise UserError(
            f"'{repository}' is not in the hub's cache, and the hub cannot be reached",
            where="sae",
            suggestion="Fetch it once with a network, or give a folder with the files",
        ) from error
