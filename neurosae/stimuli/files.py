"""Stimulus files: YAML in, a checked structure out; every error names its file and line.

YAML is read as plain data: all scalars are text until the schema says otherwise (`yes` is a level, not a boolean), and
anchors, aliases, tags and duplicate keys are refused.
"""

from __future__ import annotations

import hashlib
import keyword
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from neurosae.errors import UserError, unknown_name
from neurosae.stimuli.contrasts import MAX_CELLS

MAX_BYTES = 20_000_000
MAX_DEPTH = 12
ANY_LEVEL = ""  # key of the wordings of a slot that is not a factor
COLUMNS = ("id", "text", "pair", "family", "group", "template", "wording", "domain", "target_start", "target_end")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Keys = tuple[str | int, ...]


def _shorthand(key: str) -> BeforeValidator:
    """Lets a plain text stand for ``{key: text}``."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


Text = Annotated[str, StringConstraints(pattern=r"\S")]
Wordings = Annotated[list[Text], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Slot = Annotated[
    dict[str, Wordings], BeforeValidator(lambda value: value if isinstance(value, dict) else {ANY_LEVEL: value})
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ContrastEntry(_Strict):
    """A contrast, and how its labels may be exchanged under the null hypothesis."""

    expression: Text
    design: Literal["pairs", "families", "interaction", "unpaired"] | None = None


class Version(_Strict):
    """One text of a family."""

    text: Text
    target: Text | None = None
    ratings: dict[str, FiniteFloat] = {}


class Item(BaseModel):
    """One text, or a family of versions; the other keys are factors and are checked against them."""

    model_config = ConfigDict(extra="allow")

    id: Text
    text: Text | None = None
    versions: dict[str, Annotated[Version, _shorthand("text")]] | None = None
    condition: Text | None = None
    pair: Text | None = None
    family: Text | None = None
    group: Text | None = None
    domain: Text | None = None
    target: Text | None = None
    ratings: dict[str, FiniteFloat] = {}


class Template(_Strict):
    """A text with slots: a slot named like a factor maps levels to wordings, every other slot is a list."""

    id: Text
    template: Text
    slots: dict[str, Slot]
    target: Text | None = None
    domain: Text | None = None


class Chat(_Strict):
    """The system message of the chat template."""

    system: Text | None = None


class StimulusFile(_Strict):
    """Everything a stimulus file may hold."""

    name: Text
    target: Text
    definition: Text
    licence: Text | None = None
    concept: bool = True
    factors: dict[str, list[Text]] = Field(min_length=1)
    contrasts: dict[str, Annotated[ContrastEntry, _shorthand("expression")]] = Field(min_length=1)
    items: list[Item] = []
    templates: list[Template] = []
    chat: Annotated[Chat | None, BeforeValidator(lambda value: _CHAT.get(str(value), value))] = None


_CHAT: Mapping[str, dict[str, str] | None] = {"true": {}, "false": None}
_PARTS: Mapping[str, type[BaseModel]] = {
    "contrasts": ContrastEntry,
    "items": Item,
    "versions": Version,
    "templates": Template,
    "chat": Chat,
}


@dataclass(frozen=True)
class SourceFile:
    """Where a structure came from: turns a place in it into ``FILE:LINE``.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the bytes of the file.
    lines : mapping of tuple to int
        Line (from 1) of every key and list entry, by its place, such as ``("items", 3, "text")``.
    """

    path: Path
    sha256: str
    lines: Mapping[Keys, int]

    def where(self, *keys: str | int) -> str:
        """``FILE:LINE`` of a place, or of the nearest known place around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.path}:{self.lines.get(keys, 1)}"

    def error(
        self, what: str, *keys: str | int, allowed: str | None = None, suggestion: str | None = None
    ) -> UserError:
        """An error at a place."""
        return UserError(what, where=self.where(*keys), allowed=allowed, suggestion=suggestion)


def read(path: str | Path) -> tuple[StimulusFile, SourceFile]:
    """Read and validate one stimulus file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    file : StimulusFile
    source : SourceFile

    Raises
    ------
    UserError
        The file cannot be read, is no YAML, or does not follow the form; with file and line.
    """
    path = Path(path)
    content = _bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError("The file is not UTF-8", where=f"{path}:{line}", suggestion="Save it as UTF-8") from None
    builder = _Builder(path)
    data = builder.build(text)
    source = SourceFile(path, hashlib.sha256(content).hexdigest(), builder.lines)
    if not isinstance(data, dict):
        raise source.error("The file is not a mapping of keys to values", allowed=", ".join(StimulusFile.model_fields))
    try:
        file = StimulusFile.model_validate(data)
    except ValidationError as errors:
        raise _first_error(errors, source) from None
    _check_names(file, source)
    return file, source


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UserError("There is no such file", where=str(path), suggestion="Check the path")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"The file has {path.stat().st_size:,} bytes", where=str(path), allowed=f"at most {MAX_BYTES:,} bytes"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The file cannot be read ({error.strerror})", where=str(path)) from None


class _Builder:
    """Builds dictionaries, lists and strings from YAML events, noting the line of everything."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Keys, int] = {}

    def build(self, text: str) -> Any:
        try:
            # The parser reads ahead lazily, so a refused document costs nothing beyond the refused line.
            events: Iterator[Any] = (
                event
                for event in yaml.parse(text, Loader=_Loader)
                if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentEndEvent | yaml.StreamEndEvent)
            )
            if next(events, None) is None:
                raise UserError("The file is empty", where=str(self.path))
            data = self._node(next(events), (), events)
            if extra := next(events, None):
                raise self._error("The file holds a second document", extra)
            return data
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.path}:{mark.line + 1}" if mark else str(self.path)
            raise UserError(
                f"The YAML is malformed: {error.problem or error.context}",
                where=where,
                suggestion="Look for a missing quote, colon or bracket on this line or the one before",
            ) from None
        except yaml.YAMLError as error:
            what = f"The YAML is malformed: {str(error).splitlines()[0]}"
            raise UserError(what, where=str(self.path)) from None

    def _error(self, what: str, event: Any) -> UserError:
        return UserError(what, where=f"{self.path}:{event.start_mark.line + 1}")

    def _node(self, event: Any, keys: Keys, events: Iterator[Any]) -> Any:
        self.lines.setdefault(keys, event.start_mark.line + 1)  # a key's own line comes first
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._error("Anchors and aliases (& and *) are not used in stimulus files", event)
        if getattr(event, "tag", None):
            raise self._error(f"Tags such as '{event.tag}' are not used in stimulus files", event)
        if len(keys) > MAX_DEPTH:
            raise self._error(f"The file is nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.SequenceStartEvent):
            values: list[Any] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                values.append(self._node(event, (*keys, len(values)), events))
            return values
        if isinstance(event, yaml.MappingStartEvent):
            mapping: dict[str, Any] = {}
            while not isinstance(event := next(events), yaml.MappingEndEvent):
                key = self._node(event, (*keys, "?"), events)
                del self.lines[(*keys, "?")]
                if not isinstance(key, str):
                    raise self._error("A key is empty or not plain text", event)
                if key in mapping:
                    first = self.lines[(*keys, key)]
                    raise self._error(f"The key '{key}' occurs twice; first on line {first}", event)
                self.lines[(*keys, key)] = event.start_mark.line + 1
                mapping[key] = self._node(next(events), (*keys, key), events)
            return mapping
        is_null = event.implicit[0] and event.value in {"", "~", "null", "Null", "NULL"}
        return None if is_null else event.value


def _first_error(errors: ValidationError, source: SourceFile) -> UserError:
    """The error that stands first in the file, in our words; missing keys last, as a misspelled key looks missing."""

    def rank(error: Any) -> tuple[bool, int]:
        return error["type"] == "missing", int(source.where(*error["loc"]).rpartition(":")[2])

    error = min(errors.errors(), key=rank)
    keys = error["loc"]
    name = next(key for key in reversed(keys) if isinstance(key, str) and key)
    subject = f"Entry {keys[-1] + 1} of '{name}'" if isinstance(keys[-1], int) else f"'{name}'"
    what, allowed = f"{subject}: {error['msg']}", None
    match error["type"]:
        case "extra_forbidden":
            return unknown_name("key", name, _fields_at(keys), where=source.where(*keys))
        case "missing":
            what = f"The key '{name}' is missing"
        case "string_pattern_mismatch" | "too_short":
            what = f"{subject} is empty"
        case "float_parsing" | "finite_number" | "float_type":
            what, allowed = f"The rating '{name}' is '{error['input']}'", "finite numbers"
        case "model_type" if name == "chat":
            what, allowed = f"{subject} is '{error['input']}'", "true, false, or {system: text}"
        case "string_type":
            what = f"{subject} is not a text"
        case "list_type":
            what = f"{subject} is not a list"
        case "dict_type" | "model_type":
            what = f"{subject} is not a mapping"
        case "literal_error":
            what, allowed = f"{subject} is '{error['input']}'", error["ctx"]["expected"]
    return source.error(what, *keys, allowed=allowed)


def _fields_at(keys: Keys) -> list[str]:
    """The keys allowed beside the last of `keys`."""
    model: type[BaseModel] = StimulusFile
    for key in keys[:-1]:
        if isinstance(key, str) and key in model.model_fields:
            model = _PARTS.get(key, model)
    return list(model.model_fields)


def _check_names(file: StimulusFile, source: SourceFile) -> None:
    """Names become columns, words of expressions and names of files, and must be fit for that."""
    for name, keys in [(file.name, ("name",)), *((name, ("contrasts", name)) for name in file.contrasts)]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise source.error(f"'{name}' is not a name", *keys, allowed="letters, digits, '_', '-' and '.'")
    taken = set(COLUMNS) | set(Item.model_fields)
    for factor in file.factors:
        if not _is_identifier(factor) or factor in taken:
            raise source.error(
                f"'{factor}' cannot be the name of a factor",
                *("factors", factor),
                allowed=f"identifiers such as 'valence', other than {', '.join(sorted(taken))}",
            )
    known: dict[str, str] = {}
    for factor, levels in file.factors.items():
        if len(levels) < 2:
            raise source.error(f"The factor '{factor}' has fewer than two levels", "factors", factor)
        for i, level in enumerate(levels):
            if not _is_identifier(level):
                raise source.error(
                    f"'{level}' cannot be the name of a level",
                    *("factors", factor, i),
                    allowed="identifiers such as 'true_premise' (no spaces, not a word of Python such as 'not')",
                )
            if level in known:
                raise source.error(
                    f"The level '{level}' is listed twice (factor '{known[level]}' and factor '{factor}')",
                    *("factors", factor, i),
                    allowed="level names that differ over all factors",
                )
            known[level] = factor
    if math.prod(map(len, file.factors.values())) > MAX_CELLS:
        raise source.error("The factors have too many cells", "factors", allowed=f"at most {MAX_CELLS} cells")
    if file.target not in known:
        raise unknown_name("level", file.target, known, where=source.where("target"))


def _is_identifier(name: str) -> bool:
    """Whether a contrast expression can name it (expressions are NFKC-normalised when they are read)."""
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name
