"""``python -m neurosae.sae list`` and ``python -m neurosae.sae inspect PATH``: which SAEs there are, what a file is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neurosae import console
from neurosae.console import Parser, Summary
from neurosae.errors import UserError
from neurosae.sae import loading, registry
from neurosae.sae.formats import recognise

_DESCRIPTION = """Which SAEs there are, and what a file is. Nothing is fetched.

Examples
--------
python -m neurosae.sae list --model llama
python -m neurosae.sae inspect path/to/sae
"""
_LIST = """Which SAEs can be named: those that ship and those of SAELens' registry.

Examples
--------
python -m neurosae.sae list --model llama
"""
_INSPECT = """What does a checkpoint hold: its format, hook, configuration files, and every tensor with shape and dtype.

Examples
--------
python -m neurosae.sae inspect path/to/sae
"""


def parser() -> Parser:
    """Command-line options."""
    p = Parser("python -m neurosae.sae", _DESCRIPTION, only_commands=True)
    commands = p.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="bundled SAEs and the releases of SAELens' registry", description=_LIST)
    listing.add_argument("--model", help="only SAEs of language models with this in their name (default: all)")
    inspecting = commands.add_parser(
        "inspect", help="format, site and tensors of a file or folder", description=_INSPECT
    )
    inspecting.add_argument("path", help="a file, a folder, or a bundled name")
    return p


def run(options: argparse.Namespace) -> Summary:
    """List, or inspect."""
    if options.command == "inspect":
        return Summary(
            found={"text": inspected(options.path)},
            answer=inspected(options.path),
            then=[f"python -m experiments.check_sae {options.path}   # does it fit the hook it declares?"],
        )
    header, *rows = table(options.model)
    return Summary(
        [f"{len(rows)} bundled SAEs and releases; name one with --sae, of a release as RELEASE/SAE."],
        {"saes": [dict(zip(header, row, strict=True)) for row in rows]},
        answer=listed(options.model),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """List the SAEs that ship and those of SAELens' registry, or say what a file holds. Nothing is fetched."""
    return console.main(parser(), run, arguments)


def listed(model: str | None = None) -> str:
    """One line for every bundled SAE and every release; only what the registry says is shown.

    Parameters
    ----------
    model : str, optional
        Part of the language model's name, upper or lower case.
    """
    rows = table(model)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def table(model: str | None = None) -> list[tuple[str, ...]]:
    """The header, and the rows of `listed`."""
    rows = [_bundled_row(name, path) for name, path in loading.bundled().items()]
    rows += [_release_row(name) for name in registry.releases()]
    rows = [row for row in rows if not model or model.lower() in row[2].lower()]
    if not rows:
        raise UserError(
            f"No SAE is known for '{model}'",
            where="model",
            suggestion="Leave --model out to see every language model",
        )
    return [("name", "SAEs", "language model", "latents", "L0", "Neuronpedia", "memory, float32"), *rows]


def inspected(path: str) -> str:
    """Format, weights, hook, configuration files, and every tensor with shape and dtype, from the headers.

    Parameters
    ----------
    path : str
        A file, a folder, or a bundled name.
    """
    where = loading.bundled().get(path, Path(path))
    if not where.exists():
        raise UserError(f"There is no file or folder '{path}'", where="inspect")
    reader, source = recognise(where)
    lines = [
        f"format    {reader.NAME}",
        f"weights   {source.weights}",
        f"hook      {reader.hook_name(source) or 'not said; load it as PATH@SITE'}",
        f"configs   {', '.join(config.name for config in source.configs) or 'none'}",
    ]
    width = max(len(name) for name in source.header)
    for name, info in source.header.items():
        lines.append(f"{name.ljust(width)}  {str(tuple(info.shape)).ljust(16)}  {info.dtype}")
    return "\n".join(lines)


def _bundled_row(name: str, path: Path) -> tuple[str, ...]:
    _, source = recognise(path)
    config = source.config("d_in", "d_sae") or {}
    about = config.get("metadata", {})
    memory = _gigabytes([8 * config["d_in"] * config["d_sae"]])
    return (name, "1", str(about.get("model_name")), _span([config["d_sae"]]), _span([about.get("l0")]), "", memory)


def _release_row(release: str) -> tuple[str, ...]:
    entries = registry.entries(release)
    pedia = sum(entry.neuronpedia is not None for entry in entries)
    return (
        release,
        str(len(entries)),
        entries[0].model,
        _span([entry.n_latents for entry in entries]),
        _span([entry.l0 for entry in entries]),
        f"{pedia} of {len(entries)}" if pedia else "",
        _gigabytes([entry.memory for entry in entries]),
    )


def _span(values: Sequence[float | None]) -> str:
    """The range of the known values; empty if none is known."""
    known = sorted({value for value in values if value})
    return " to ".join(f"{value:,.0f}" for value in dict.fromkeys((known[0], known[-1]))) if known else ""


def _gigabytes(values: Sequence[int | None]) -> str:
    known = sorted({value for value in values if value})
    return " to ".join(f"{v / 1e9:.2f} GB" for v in dict.fromkeys((known[0], known[-1]))) if known else ""


if __name__ == "__main__":
    sys.exit(main())
