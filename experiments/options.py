"""What several commands ask alike: which language model, which SAE, which texts."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from neurosae import console, models
from neurosae.console import Parser, Summary
from neurosae.errors import UserError, unknown_name
from neurosae.models import LanguageModel
from neurosae.representations import Source
from neurosae.sae import loading

_UNIONS = (UnionType, Union)


def command(module: str, description: str | None, resumes: str = "") -> Parser:
    """A parser that shows the module's docstring, examples included, as its help; `resumes` as in `Parser`."""
    p = Parser(f"python -m experiments.{module}", description, resumes)
    p.output.add_argument("--config", type=Path, help="YAML file with any of these options; the command line wins")
    return p


def main(p: Parser, run: Callable[[argparse.Namespace], Summary], arguments: Sequence[str] | None) -> int:
    """`neurosae.console.main` with ``--config``."""
    return console.main(p, run, arguments, read)


def number(value: float | None, digits: int = 2) -> str:
    """A value as tables show it; a dash where there is none.

    >>> number(0.916), number(float("nan")), number(None)
    ('0.92', '-', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value with its 95 % interval, where it has one.

    >>> with_interval(0.916, 0.88, 0.943)
    '0.92 [0.88, 0.94]'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def next_command(module: str, options: argparse.Namespace, out: str, why: str, *, sae: bool = True) -> str:
    """How another command is asked about the same contrast and language model, and, with `sae`, the same SAE.

    >>> asked = argparse.Namespace(concept="my set.yaml", contrast=None, model="gpt2", sae="their-sae")
    >>> next_command("explain", asked, "explained", "why")
    "python -m experiments.explain --concept 'my set.yaml' --model gpt2 --sae their-sae --out explained   # why"
    """
    usual = {"concept": None, "contrast": "all", "model": models.DEFAULT, "dtype": "float32", "device": "auto"}
    usual |= {"device_map": None} | ({"sae": loading.DEFAULT} if sae else {})
    given = {name: getattr(options, name, None) for name in usual}
    words = ["python", "-m", f"experiments.{module}"]
    for name, value in given.items():
        if value not in (None, usual[name]):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return f"{shlex.join([*words, '--out', out])}   # {why}"


class _NoAliases(yaml.SafeLoader):
    """Plain data only; without aliases, nothing can expand to more than was written."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read(p: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line over the file of ``--config`` over defaults; every long option is a key of the file.

    Raises
    ------
    UserError
        A file that cannot be read, is no mapping or has aliases; a key that is no option, with the nearest one.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path, nargs="?")
    config = first.parse_known_args(arguments)[0].config
    if config is None:
        return p.parse_args(arguments)
    chosen = _as_arguments(p, config)
    choices: list[Any] = [*p._actions, *p._mutually_exclusive_groups]
    required = [each for each in choices if each.required]
    for each in required:  # what must be given may stand on either side
        each.required = False
    defaults = p.parse_args(chosen)
    for each in required:
        flags = {flag for action in getattr(each, "_group_actions", [each]) for flag in action.option_strings}
        each.required = not flags & set(chosen)
    return p.parse_args(arguments, defaults)


def _as_arguments(p: Parser, config: Path) -> list[str]:
    """The options of a configuration file as they would stand on the command line."""
    flags = {flag for action in p._actions for flag in action.option_strings if flag.startswith("--")}
    known = {flag.removeprefix("--").replace("-", "_") for flag in flags} - {"help", "config"}
    try:
        chosen = yaml.load(config.read_text(encoding="utf-8"), _NoAliases) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"The configuration cannot be read ({error})", where=str(config)) from error
    if not isinstance(chosen, dict):
        raise UserError("The configuration must be a mapping of option to value", where=str(config))
    arguments: list[str] = []
    for name, value in chosen.items():
        key = str(name).replace("-", "_")
        if key not in known:
            raise unknown_name("option", str(name), [n.replace("_", "-") for n in known], where=str(config))
        flag = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            arguments += [flag] if value else []
        elif value is not None:
            arguments += [flag, *map(str, value if isinstance(value, list) else [value])]
    return arguments


def add_arguments(group: argparse._ActionsContainer, of: Callable[..., Any], *names: str, **called: str) -> None:
    """Add options that are arguments of a verb, or fields of a dataclass: types, defaults and help are theirs.

    One that is not given is None; see `given`.

    Parameters
    ----------
    group : argument group
    of : callable
        With a numpydoc docstring; what is ``{"a", "b"}`` there can only be one of these.
    names : str
    called : str
        Names of options that differ from those of the arguments.
    """
    hints, documented = get_type_hints(of), _documented(of)
    for name in names:
        default = inspect.signature(of).parameters[name].default
        said, text = documented[name]
        if "(default: " not in text and hints[name] is not bool:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text += f" (default: {'none' if shown in (None, '') else shown})"
        kind, many = _kind(hints[name])
        how: dict[str, Any] = {"help": text[:1].lower() + text[1:].replace("%", "%%"), "dest": name}
        if kind is bool:
            how["action"] = "store_true"
        else:
            how |= {"type": kind, "nargs": "+" if many else None}
            how["choices"] = re.findall(r'"(\w+)"', said.partition("}")[0]) if said.startswith("{") else None
        group.add_argument("--" + called.get(name, name).replace("_", "-"), **how)


def _kind(hint: Any) -> tuple[type, bool]:
    """What one word is read as, and whether there may be several: text where it is an alternative."""
    kinds = [each for each in get_args(hint) if each is not NoneType] if get_origin(hint) in _UNIONS else [hint]
    kind = str if str in kinds else kinds[0]
    if get_origin(kind) is Literal:
        return str, False
    return (get_args(kind)[0], True) if get_origin(kind) in (tuple, Sequence) else (kind, False)


def _documented(of: Callable[..., Any]) -> dict[str, tuple[str, str]]:
    """Type and text of every parameter or attribute of a numpydoc docstring."""
    doc = inspect.getdoc(of) or ""
    section = re.search(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=\n\n\w+\n---|\Z)", doc, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^(\w+) : (.*)\n((?:    .*\n?)+)", section[1] if section else "", re.MULTILINE)
    whole = {name: (kind, " ".join(text.split()).removesuffix(".")) for name, kind, text in entries}
    pointers = re.compile(r"; see `[^`]+`")
    return {
        name: (kind, pointers.sub("", re.sub(r"\. Default: (.*)", r" (default: \1)", text)).replace("`", ""))
        for name, (kind, text) in whole.items()
    }


def given(options: argparse.Namespace, of: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a verb, or fields of a dataclass, that were given as options of these names."""
    asked = {name: getattr(options, name, None) for name in inspect.signature(of).parameters}
    return {name: value for name, value in asked.items() if value is not None}


def add_model(
    p: Parser,
    *,
    default: str | None = models.DEFAULT,
    otherwise: str = "the one that the SAE names",
    dtype: str = "float32",
) -> None:
    """Add ``--model``, ``--device``, ``--device-map`` and ``--dtype``; `otherwise`: which model where none is named."""
    shown = default or otherwise
    group = p.add_argument_group("language model")
    group.add_argument("--model", default=default, help=f"a Hugging Face name or a folder (default: {shown})")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--device-map", help="spread a large model: auto, balanced; needs accelerate (default: one device)"
    )
    group.add_argument("--dtype", default=dtype, choices=list(models.DTYPES), help="of the language model's weights")


def add_texts(p: argparse._ActionsContainer, default: int = 600) -> None:
    """Add ``--corpus``, ``--texts`` and ``--context``."""
    p.add_argument("--corpus", help="texts to measure on (default: the calibration text and every built-in stimulus)")
    p.add_argument("--texts", type=int, default=default, help="at most so many of them")
    p.add_argument("--context", type=int, default=256, help="longest context in tokens")


def source(options: argparse.Namespace) -> Source:
    """The language model and the SAE of the options, read in batches of ``--batch-size``."""
    return Source(
        options.model,
        options.device,
        options.dtype,
        options.sae,
        options.batch_size,
        options.seed,
        device_map=options.device_map,
    )


def model_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_model` asks for, as keywords of a verb."""
    return {name: getattr(options, name) for name in ("model", "device", "dtype", "device_map")}


def load_model(options: argparse.Namespace) -> LanguageModel:
    """The language model of the options."""
    model = options.model or models.DEFAULT
    return models.load(model, options.device, options.dtype, device_map=options.device_map)
