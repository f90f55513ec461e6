"""What goes wrong on a person's machine - files, disk, memory, network, packages - as messages they can act on."""

from __future__ import annotations

import errno
import re
import socket
from importlib import metadata

from neurosae.errors import UserError

_NETWORK = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def as_user_error(error: BaseException, memory_options: str = "") -> UserError | None:
    """The message for something that a person can mend; None for a mistake of the program.

    Parameters
    ----------
    error : BaseException
    memory_options : str, optional
        Which options bound the memory, for the suggestion.

    Examples
    --------
    >>> print(as_user_error(FileNotFoundError(2, "No such file or directory", "texts.txt")))
    texts.txt: No such file or directory.
    >>> print(as_user_error(MemoryError(), "--batch-size"))
    The memory does not suffice. Give a smaller --batch-size, or use a machine with more.
    >>> as_user_error(KeyError("x")) is None
    True
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error.name or "")
    if _is_memory(error):
        smaller = f"Give a smaller {memory_options}, or use" if memory_options else "Use"
        return UserError("The memory does not suffice", suggestion=f"{smaller} a machine with more")
    if _is_network(error):
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(
            f"The network does not answer: {first_line}",
            suggestion="Everything bundled works offline; models and SAEs of the hub do once they were fetched",
        )
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"A file is not UTF-8 text ({error.reason} at byte {error.start})")
    return _file_error(error) if isinstance(error, OSError) else None


def _file_error(error: OSError) -> UserError | None:
    """What the operating system refuses; None where it does not say what."""
    if error.errno is None:
        return None
    where, what, suggestion = str(error.filename or "") or None, error.strerror or str(error), None
    if error.errno in _FULL:
        suggestion = "Free some disk space, then run the same command again"
    elif error.errno in _FORBIDDEN:
        suggestion = "Choose another folder, or ask for the permission"
    return UserError(what, where=where, suggestion=suggestion)


def _is_memory(error: BaseException) -> bool:
    """Memory of the machine or of its accelerator; libraries have classes and texts of their own for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError", "TerminatedWorkerError"}) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _is_network(error: BaseException) -> bool:
    if isinstance(error, BrokenPipeError):
        return False
    of_library = any(kind.__module__.split(".")[0] in _NETWORK for kind in type(error).__mro__)
    return of_library or isinstance(error, ConnectionError | TimeoutError | socket.gaierror)


def _missing_package(name: str) -> UserError | None:
    """Which extra of this project has the package; a missing part of the project itself is no mishap."""
    package = name.partition(".")[0]
    if package in ("", "neurosae", "experiments", "benchmarks"):
        return None
    try:
        required = metadata.requires("neurosae") or []
    except metadata.PackageNotFoundError:
        required = []
    extras = [
        found[1] for line in required if line.startswith(package) and (found := re.search(r"extra == .(\w+)", line))
    ]
    what = f'".[{extras[-1]}]"' if extras else "."
    return UserError(
        f"The package '{package}' is not installed", suggestion=f"Run:\npip install -c constraints.txt -e {what}"
    )
