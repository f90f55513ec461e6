"""The front door: light to import, TAB shows the verbs, every verb is where it is said to be."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import neurosae


def test_importing_the_package_imports_no_room() -> None:
    heavy = ("torch", "pandas", "sklearn", "scipy", "matplotlib")
    code = f"""
import sys
import neurosae
dir(neurosae)
print([name for name in sys.modules if name.split(".")[0] in {heavy} or name.startswith("neurosae.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tab_shows_the_verbs() -> None:
    assert set(neurosae.__all__) == set(neurosae._HOMES) <= set(dir(neurosae))


@pytest.mark.parametrize("name", neurosae.__all__)
def test_a_verb_lives_where_it_is_said_and_is_documented(name: str) -> None:
    verb = getattr(neurosae, name)
    assert verb.__name__ == name and verb.__module__.startswith(f"neurosae.{neurosae._HOMES[name]}")
    assert inspect.getdoc(verb)


def test_an_unknown_verb_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'check_say'"):
        getattr(neurosae, "check_" + "say")
