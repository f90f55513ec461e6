"""Lists of known members (elements, months, ...): YAML files with the names and the sentences that carry them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from neurosae.errors import UserError, unknown_name

_SLOT = "{member}"
_MAX_BYTES = 1_000_000


class MemberList(BaseModel):
    """Members of a kind and the carriers they are mentioned in.

    Attributes
    ----------
    name : str
    licence : str
    carriers : tuple of str
        Sentences with ``{member}`` once in each; two or more, so that some can be held out.
    members : tuple of str
        Two or more, all different.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    name: str
    licence: str = "not said"
    carriers: tuple[str, ...]
    members: tuple[str, ...]

    @field_validator("carriers")
    @classmethod
    def _one_slot_each(cls, carriers: tuple[str, ...]) -> tuple[str, ...]:
        bad = [carrier for carrier in carriers if carrier.count(_SLOT) != 1]
        if bad or len(carriers) < 2:
            raise ValueError(f"two sentences or more with {_SLOT} once in each are needed, not {bad or carriers}")
        return carriers

    @field_validator("members")
    @classmethod
    def _different(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        if len(members) < 2 or len(set(members)) < len(members) or not all(member.strip() for member in members):
            raise ValueError("two different names or more are needed, none twice, none empty")
        return members

    def mentions(self) -> pd.DataFrame:
        """Every member in every carrier.

        Returns
        -------
        DataFrame
            `member`, `carrier` (number), `text`, and `target_start` and `target_end`, the characters of the member.
        """
        rows = []
        for member in self.members:
            for number, carrier in enumerate(self.carriers):
                start = carrier.index(_SLOT)
                text = carrier.replace(_SLOT, member)
                rows.append((member, number, text, start, start + len(member)))
        return pd.DataFrame(rows, columns=["member", "carrier", "text", "target_start", "target_end"])


def available() -> dict[str, Path]:
    """Names and files of the lists that ship.

    Examples
    --------
    >>> sorted(available())
    ['colours', 'countries', 'elements', 'months', 'us_states']
    """
    folder = Path(str(files("neurosae").joinpath("data/members")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name_or_path: str) -> MemberList:
    """Read a list by name, or from a file whose name ends in ``.yaml``.

    Raises
    ------
    UserError
        An unknown name (the nearest is suggested), a file that cannot be read or does not follow the form.

    Examples
    --------
    >>> len(load("months").members)
    12
    """
    if not name_or_path.endswith((".yaml", ".yml")) and name_or_path not in available():
        raise unknown_name("member list", name_or_path, available(), where="members")
    path = available().get(name_or_path, Path(name_or_path))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError("The file is too large", where=str(path), allowed=f"at most {_MAX_BYTES:,} bytes")
        return MemberList.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        what = f"{place}: {first['msg']}"
        raise UserError(what, where=str(path), allowed=", ".join(MemberList.model_fields)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"No member list can be read from it ({' '.join(str(error).split())})", where=str(path)
        ) from None


def load_all(names: Iterable[str]) -> list[MemberList]:
    """Read several lists; the one word "all" means those that ship.

    Raises
    ------
    UserError
        See `load`; two lists of one name, because results are kept by it.
    """
    names = list(names)
    found: dict[str, tuple[str, MemberList]] = {}
    for source in available() if names == ["all"] else names:
        each = load(source)
        if each.name in found:
            raise UserError(
                f"'{found[each.name][0]}' and '{source}' are both lists named '{each.name}'",
                where="members",
                allowed="every name once",
                suggestion="Leave one out, or change the name inside its file",
            )
        found[each.name] = source, each
    return [each for _, each in found.values()]
