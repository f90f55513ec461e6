"""Prompts are files: the first line is ``version: N``, then a system part and a user part with ``$names`` to fill in.

Their version and the hash of their text go into the cache key and the provenance of every answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from string import Template

from neurosae.errors import UserError, unknown_name

FOLDER = Path(__file__).parent / "prompts"
_USER = "\n# user\n"
_SYSTEM = "# system\n"


@dataclass(frozen=True)
class Prompt:
    """A prompt file.

    Attributes
    ----------
    name : str
        File name without its ending.
    version : str
        "grade-1-3f2a...": name, version line and the start of the file's SHA-256.
    system, user : str
        The two messages, with ``$names`` in place of what changes.
    """

    name: str
    version: str
    system: str
    user: str

    def fill(self, **values: str) -> tuple[str, str]:
        """System and user message; each value is put in once and never itself read as a template.

        Raises
        ------
        KeyError
            A ``$name`` without a value.
        """
        return Template(self.system).substitute(values), Template(self.user).substitute(values)


def load_prompt(name: str, folder: Path = FOLDER) -> Prompt:
    """Read ``prompts/<name>.md``.

    Raises
    ------
    UserError
        No such prompt; a file without a version line or without its two parts.

    Examples
    --------
    >>> load_prompt("grade").version.startswith("grade-1-")
    True
    """
    path = folder / f"{name}.md"
    if not path.is_file():
        raise unknown_name("prompt", name, [p.stem for p in folder.glob("*.md")])
    text = path.read_text(encoding="utf-8")
    first, _, body = text.partition("\n")
    system, marker, user = body.partition(_USER)
    number = first.removeprefix("version:").strip()
    if not (first.startswith("version:") and number.isdigit() and marker and _SYSTEM in system):
        raise UserError(
            "A prompt file is 'version: N', '# system' and its text, '# user' and its text", where=str(path)
        )
    sha = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(name, f"{name}-{number}-{sha}", system.partition(_SYSTEM)[2].strip(), user.strip())
