"""What stands in the code blocks of a Markdown page: Python, YAML and command lines."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
_OURS = ("neurosae", "experiments", "benchmarks")
_MAIN = {"neurosae.stimuli": "neurosae.stimuli.checks"}  # where the command of a module is, if elsewhere


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language; indented blocks have the language ''."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return [t.content for t in tokens if t.type in ("fence", "code_block") and t.info.strip() == language]


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in the text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    return [part.content for t in tokens for part in t.children or [] if part.type == "code_inline"]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of every ``python -m`` of this project in the shell blocks of a page."""
    for block in [*blocks(page, "sh"), *blocks(page, "")]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start in (n for n, word in enumerate(words) if word == "-m" and n and "python" in words[n - 1]):
                rest = words[start + 1 :]
                end = next((n for n, word in enumerate(rest) if word in ("|", ">", "&&", ";")), len(rest))
                if rest[0].split(".")[0] in _OURS:
                    yield rest[0], rest[1:end]


class _Asked(BaseException):
    """A command was about to read its arguments with this parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@cache
def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command, without running it."""
    module = importlib.import_module(_MAIN.get(name, name))
    if hasattr(module, "parser"):
        return module.parser()
    if importlib.util.find_spec(f"{name}.__main__") if hasattr(module, "__path__") else None:
        module = importlib.import_module(f"{name}.__main__")
        if hasattr(module, "parser"):
            return module.parser()

    def asked(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Asked(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", asked)
        try:
            module.main([])
        except _Asked as found:
            return found.parser
    raise AssertionError(f"{name} reads no arguments")


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Long options of a parser and of its subcommands."""
    found = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(flags, action.choices.values()))
    return found


@cache
def modules_with_a_command() -> list[str]:
    """Every module of `experiments` that can be run, and those of the library."""
    files = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "__main__" in path.read_text("utf-8")]
    packages = [f"neurosae.{path.parent.name}" for path in sorted(ROOT.glob("neurosae/*/__main__.py"))]
    return [*(f"experiments.{path.stem}" for path in files), *packages, "neurosae.stimuli", "neurosae.models"]


def named_files(page: Path) -> dict[str, str]:
    """YAML blocks by the file name in a comment on their first line."""
    found = {}
    for block in blocks(page, "yaml"):
        name = re.search(r"# (\S+\.yaml)$", block.splitlines()[0])
        assert name, f"{page.name}: a YAML block names no file"
        found[name[1]] = block
    return found
