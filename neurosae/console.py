"""What every command has in common: help, errors, how much it says, its summary or JSON, and how it exits.

A command builds a `Parser`, does its work in ``run(options)``, and returns a `Summary`; `main` does everything else.
Tables and texts that `run` prints are details: shown, but not with ``--quiet``, and on stderr with ``--json``.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import logging
import math
import os
import re
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

from tqdm.auto import tqdm

from neurosae.errors import CheckFailed, UserError, unknown_name
from neurosae.mishaps import as_user_error

DONE, UNEXPECTED, MENDABLE, NO, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141
EXIT_CODES = """\
exit codes:
  0    done
  1    an unexpected error: a mistake of the program
  2    something you can mend: an option, a file, space, memory, a missing package, the network
  3    a check that was asked for says no
  130  stopped with Ctrl-C
  141  nobody reads the output any more (... | head)"""
_METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}
_COMMON = {"config": 1, "quiet": 2, "verbose": 3, "json": 4, "help": 5}
BOUND_MEMORY = ("batch_size", "batch_tokens", "shard_tokens", "buffer")
"""Options that bound memory, whichever command has them."""
_ALOUD = ("huggingface_hub", "datasets")  # libraries that write to stderr themselves
log = logging.getLogger("neurosae")


@dataclass(frozen=True)
class Summary:
    """What a command has to say at its end.

    Attributes
    ----------
    sentences : sequence of str
        What was found, in two to six sentences.
    found : mapping
        The same and more for programs, as ``--json`` prints it.
    folder : Path, optional
        Where everything is.
    files : mapping of str to str
        Names below the folder and what they are, the most useful first; those that do not exist are left out.
    then : sequence of str
        Commands that continue or go deeper.
    answer : str
        A table or text that is itself what was asked for, shown with ``--quiet`` too.
    code : int, default 0
        3 if a check says no.
    """

    sentences: Sequence[str] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    then: Sequence[str] = ()
    answer: str = ""
    code: int = DONE

    @property
    def there(self) -> dict[str, str]:
        """The files that exist."""
        return {name: about for name, about in self.files.items() if self.folder and (self.folder / name).exists()}

    def as_text(self, quiet: bool = False) -> str:
        """For people; with `quiet`, only what was found and the folder."""
        parts = [self.answer] if self.answer else []
        if quiet:
            return "\n".join([*parts, *self.sentences, *([str(self.folder)] if self.folder else [])])
        parts += ["\n".join(self.sentences)] if self.sentences else []
        if self.folder:
            width = max(map(len, self.there), default=0)
            lines = [f"  {name:<{width}}  {about}".rstrip() for name, about in self.there.items()]
            parts += ["\n".join([f"Everything is in {self.folder}", *lines])]
        if self.then:
            parts += ["\n".join(["Next:", *(f"  {command}" for command in self.then)])]
        return "\n\n".join(parts)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows every default that is one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _METAVARS.get(action.type, action.dest.upper())

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default" in text or default is None or default is False or default in ("", [], argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`, with ``--quiet``, ``--verbose`` and ``--json``.

    Parameters
    ----------
    prog : str
        How the command is called.
    description : str, optional
        What it answers, with examples.
    resumes : str, optional
        What an interrupted run leaves, for a command that goes on from there.
    only_commands : bool, default False
        There is nothing but sub-commands, each with a parser like this one.
    bound_memory : sequence of str, default `BOUND_MEMORY`
        Names of arguments that bound memory, where the command has them: to be named when memory does not suffice.
    **how
        As `argparse.ArgumentParser` takes them.

    Examples
    --------
    >>> Parser(prog="weigh").parse_args(["--quite"])
    Traceback (most recent call last):
    neurosae.errors.UserError: There is no option '--quite'. Did you mean '--quiet'?
    """

    def __init__(
        self,
        prog: str,
        description: str | None = None,
        resumes: str = "",
        only_commands: bool = False,
        bound_memory: Sequence[str] = BOUND_MEMORY,
        **how: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "formatter_class": _Formatter,
            "epilog": EXIT_CODES,
            "allow_abbrev": False,
            "add_help": False,
        } | how
        super().__init__(prog=prog, description=description, **settings)
        self.resumes, self.bound_memory = resumes, bound_memory
        self.output = self.add_argument_group("output")
        self.output.add_argument("-h", "--help", action="help", help="show this")
        if only_commands:
            return
        loudness = self.output.add_mutually_exclusive_group()
        loudness.add_argument("--quiet", action="store_true", help="what was found and errors, nothing else")
        loudness.add_argument("--verbose", action="store_true", help="log with times, warnings, tracebacks")
        self.output.add_argument("--json", action="store_true", help="one JSON document on stdout, the rest on stderr")

    def format_help(self) -> str:
        """Arguments of the output last; of the usage only what must be given."""
        self._action_groups.sort(key=lambda group: group is self.output)
        self.output._group_actions.sort(key=lambda action: _COMMON.get(action.dest, 0))
        required = [
            f"{action.option_strings[0]} {_METAVARS.get(action.type, action.dest.upper())}"
            for action in self._actions
            if action.option_strings and action.required
        ]
        if not (self.usage or self._subparsers):
            positional = [
                f"[{name}]" if action.nargs == "?" else name
                for action in self._get_positional_actions()
                for name in [str(action.metavar or action.dest.upper())]
            ]
            self.usage = " ".join(["%(prog)s", *positional, *required, "[options]"])
        return super().format_help()

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Write the help out before leaving: what goes wrong there is an error like any other."""
        sys.stdout.flush()
        super().exit(status, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Say first which options there are not: what is missing may be a consequence."""
        given = list(sys.argv[1:] if args is None else args)
        for word in [] if self._subparsers else given[: given.index("--") if "--" in given else None]:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                suggestion = f"Did you mean '{near[0]}'?" if near else f"'{self.prog} --help' lists them"
                raise UserError(f"There is no option '{name}'", suggestion=suggestion)
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` instead of exiting."""
        found = re.match(r"argument ([^:]+): (.*)", message, re.DOTALL)
        where, what = (found[1], found[2]) if found else (None, message)
        if choice := re.match(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", what):
            known = re.findall(r"'([^']*)'", choice[2]) or choice[2].split(", ")
            raise unknown_name("value", choice[1], known, where=where)
        raise UserError(what[:1].upper() + what[1:], where=where, suggestion=f"See {self.prog} --help")

    def in_its_words(self, error: UserError) -> UserError:
        """An error of the library, which names arguments, as one about the options that stand for them."""
        flag = self._flags().get(error.where or "")
        if flag is None:
            return error
        return type(error)(error.what, where=flag, allowed=error.allowed, suggestion=error.suggestion)

    def _flags(self) -> dict[str, str]:
        """Option of every argument by the argument's name, those of sub-commands too."""
        flags: dict[str, str] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    flags |= parser._flags()
            elif action.option_strings:
                flags[action.dest] = action.option_strings[0]
        return flags

    def memory_options(self) -> str:
        """The options of this command that bound memory."""
        return " or ".join(flag for name, flag in self._flags().items() if name in self.bound_memory)


def main(
    parser: Parser,
    run: Callable[[argparse.Namespace], Summary],
    arguments: Sequence[str] | None = None,
    read: Callable[[Any, Sequence[str] | None], argparse.Namespace] = Parser.parse_args,
) -> int:
    """Run a command from its arguments to its exit code; nothing but ``--help`` is raised.

    Parameters
    ----------
    parser : Parser
    run : callable
        Options -> `Summary`.
    arguments : sequence of str, optional
        Default: those of the process.
    read : callable, optional
        Parser and arguments -> options.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    ending = _Ending(parser, given, time.monotonic())
    try:
        options = read(parser, given)
        with _voice(options):
            summary = run(options)
        ending.show(summary, options)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return ending.interrupted()
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except Exception as error:  # the one place where nothing may escape
        return ending.failed(error)
    return summary.code


@dataclass(frozen=True)
class _Ending:
    """How a command ends, in words or as JSON."""

    parser: Parser
    given: Sequence[str]
    started: float

    def show(self, summary: Summary, options: argparse.Namespace) -> None:
        if not options.json:
            print(("" if options.quiet or summary.answer else "\n") + summary.as_text(options.quiet))
            return
        files = [str(summary.folder / name) for name in summary.there] if summary.folder else []
        about = {"folder": summary.folder and str(summary.folder), "files": files, "found": summary.found}
        print(self._document(about | {"summary": list(summary.sentences), "next": list(summary.then)}))

    def failed(self, error: Exception) -> int:
        """Exit code of an error, which is told without a traceback, unless that was asked for."""
        known = as_user_error(error, self.parser.memory_options())
        known = known and self.parser.in_its_words(known)
        code = UNEXPECTED if known is None else NO if isinstance(known, CheckFailed) else MENDABLE
        if "--verbose" in self.given:
            traceback.print_exception(error)
        if known is None:
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"Unexpected {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
            known = UserError(what, suggestion="Please report it, with what --verbose says")
        return self._refuse(known, code)

    def interrupted(self) -> int:
        again = shlex.join([word for word in self.given if word != "--fresh"])
        command = f"{self.parser.prog} {again}".strip()
        then = "Go on with" if self.parser.resumes else "Start again with"
        left = self.parser.resumes or "It writes its files at the end, so there are none yet."
        return self._refuse(UserError("Stopped", suggestion=f"{left} {then}:\n{command}"), INTERRUPTED)

    def _refuse(self, error: UserError, code: int) -> int:
        names = ("what", "where", "allowed", "suggestion")
        about = {"error": {name: getattr(error, name) for name in names}, "exit_code": code}
        document = self._document(about) + "\n" if "--json" in self.given else ""
        if not (_written(document) and document):
            print(error, file=sys.stderr)
        return code

    def _document(self, about: Mapping[str, Any]) -> str:
        head = {"command": self.parser.prog, "version": version("neurosae")}
        tail = {"seconds": round(time.monotonic() - self.started, 1)}
        return json.dumps(finite({**head, **about, **tail}), indent=1, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """The same as plain data: NaN and infinities become None, arrays lists, paths and other objects text.

    Examples
    --------
    >>> finite({"p": float("nan"), "k": (1, 2), "folder": Path("a/b")})
    {'p': None, 'k': [1, 2], 'folder': 'a/b'}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [finite(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


class _Handler(logging.Handler):
    """Lines on stderr that leave bars whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _voice(options: argparse.Namespace) -> Iterator[None]:
    """Log, warnings, bars and details as loud as asked for; all as it was afterwards."""
    root, bars = logging.getLogger(), logging.getLogger("neurosae.progress")
    libraries = [logging.getLogger(name) for name in _ALOUD]
    before = root.level, log.level, bars.disabled, [library.handlers[:] for library in libraries]
    handler = _Handler()
    plain, timed = "%(message)s", "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(timed if options.verbose else plain, "%H:%M:%S"))
    handler.setLevel(logging.ERROR if options.quiet else logging.NOTSET)
    root.addHandler(handler)
    for library in libraries:
        library.handlers.clear()
    root.setLevel(logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING)
    log.setLevel(logging.DEBUG if options.verbose else logging.ERROR if options.quiet else logging.INFO)
    bars.disabled = options.quiet
    with contextlib.ExitStack() as stack:
        stack.enter_context(_warnings(options))
        if options.quiet:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        elif options.json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(before[0])
            log.setLevel(before[1])
            bars.disabled = before[2]
            for library, handlers in zip(libraries, before[3], strict=True):
                library.handlers[:] = handlers


@contextlib.contextmanager
def _warnings(options: argparse.Namespace) -> Iterator[None]:
    """All warnings in the log, or only those of this project; in processes that are started from here, too."""
    before = os.environ.get("PYTHONWARNINGS")
    with warnings.catch_warnings():
        if options.verbose:
            warnings.simplefilter("default")
        else:
            os.environ.setdefault("PYTHONWARNINGS", "ignore")
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=r"(neurosae|experiments)\.")

        def tell(message: Warning | str, category: type[Warning], filename: str, line: int, *_: Any, **__: Any) -> None:
            log.warning("%s", message if not options.verbose else f"{message} ({category.__name__}, {filename}:{line})")

        warnings.showwarning = cast(Any, tell)
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("PYTHONWARNINGS", None)


def _written(text: str) -> bool:
    """Whether stdout takes this, and what was printed before."""
    try:
        print(text, end="", flush=True)
    except OSError:
        _drop_output()
        return False
    return True


def _drop_output() -> None:
    """Let the interpreter end without complaining about its last flush."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
