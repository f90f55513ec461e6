"""What several commands ask alike: which language model, which SAE, which texts; and how they end."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from neurosae import models, norms, stimuli
from neurosae.corpora import read_texts
from neurosae.errors import UserError, unknown_name
from neurosae.models import LanguageModel
from neurosae.representations import Source
from neurosae.sae import loading


def command(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring, examples included, as its help."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class _NoAliases(yaml.SafeLoader):
    """Plain data only; without aliases, nothing can expand to more than was written."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def add_config(p: argparse._ActionsContainer) -> None:
    """Add ``--config``, which `read` understands."""
    p.add_argument("--config", type=Path, help="YAML file with any of these options; the command line wins")


def read(p: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line over the file of ``--config`` over defaults; every long option is a key of the file.

    Raises
    ------
    UserError
        A file that cannot be read, is no mapping or has aliases; a key that is no option, with the nearest one.
    """
    p.allow_abbrev = False  # or a shortened --config would be missed here
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_config(first)
    config = first.parse_known_args(arguments)[0].config
    return p.parse_args(arguments, p.parse_args(_as_arguments(p, config)) if config else None)


def _as_arguments(p: argparse.ArgumentParser, config: Path) -> list[str]:
    """The options of a configuration file as they would stand on the command line."""
    known = {action.dest for action in p._actions if action.option_strings} - {"help", "config"}
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


def add_model(p: argparse.ArgumentParser, *, default: str | None = models.DEFAULT) -> None:
    """Add ``--model``, ``--device``, ``--device-map`` and ``--dtype``."""
    shown = default or "the one that the SAE names"
    p.add_argument("--model", default=default, help=f"a Hugging Face name or a folder (default: {shown})")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--device-map", help="spread a large model over devices: auto, balanced (needs accelerate)")
    p.add_argument("--dtype", default="float32", choices=list(models.DTYPES), help="of the language model")


def add_texts(p: argparse.ArgumentParser, default: int = 600) -> None:
    """Add ``--corpus``, ``--texts`` and ``--context``."""
    p.add_argument("--corpus", help="texts to measure on (default: the calibration text and every built-in stimulus)")
    p.add_argument("--texts", type=int, default=default, help="at most so many of them (default: %(default)s)")
    p.add_argument("--context", type=int, default=256, help="longest context in tokens (default: %(default)s)")


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


def load_model(options: argparse.Namespace, name: str | None = None) -> LanguageModel:
    """The language model of the options, or the named one where they leave it open."""
    return models.load(
        options.model or name or models.DEFAULT, options.device, options.dtype, device_map=options.device_map
    )


def load_model_of(sae: Any, options: argparse.Namespace) -> LanguageModel:
    """The language model of ``--model``, else the one that the SAE names."""
    if not (options.model or sae.cfg.metadata.model_name):
        raise UserError("This SAE does not say which language model it belongs to", where="--model")
    return load_model(options, sae.cfg.metadata.model_name)


def load_pair(options: argparse.Namespace) -> tuple[Any, LanguageModel]:
    """The SAE of ``options.sae`` and the language model it belongs to, unless ``--model`` names another.

    Raises
    ------
    UserError
        What either cannot be loaded for; an SAE of another width than the language model.
    """
    sae = loading.load(options.sae, options.device, model=options.model)
    language_model = load_model_of(sae, options)
    loading.check_width(sae, language_model)
    return sae, language_model


def texts(options: argparse.Namespace) -> list[str]:
    """The texts of ``--corpus``, else those that ship: the calibration text, then every stimulus sentence."""
    if options.texts < 1:
        raise UserError(f"{options.texts} texts", where="--texts", allowed="1 or more")
    source = read_texts(Path(options.corpus)) if options.corpus else iter(shipped_texts())
    found = list(itertools.islice(source, options.texts))
    if not found:
        raise UserError(f"{options.corpus} holds no text", where="--corpus")
    return found


def shipped_texts() -> list[str]:
    """Texts that ship with the project, each once."""
    sentences = [text for name in sorted(stimuli.available()) for text in stimuli.load(name).table["text"]]
    return list(dict.fromkeys([*norms.calibration_texts(), *sentences]))


def end(run: Callable[[], None]) -> int:
    """Run a command; what a person can act on is printed, and the exit code is 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
