"""Every command answers alike: help, errors, JSON, loudness, closed pipes and Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import capture, combinatorial, contrast_map, train_sae
from experiments import options as shared
from neurosae import console
from neurosae.console import Parser, Summary
from neurosae.errors import CheckFailed, UserError
from neurosae.mishaps import as_user_error
from neurosae.progress import progress_bar

EXPERIMENTS = Path(capture.__file__).parent
COMMANDS = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
OTHERS = [
    "neurosae.stimuli.checks",
    "neurosae.sae.__main__",
    "neurosae.models",
    "neurosae.report.__main__",
    "benchmarks.truth",
]


def parsers() -> Iterator[tuple[str, Parser]]:
    """Every parser there is, those of sub-commands too."""
    for name in [*(f"experiments.{command}" for command in COMMANDS), *OTHERS]:
        p = importlib.import_module(name).parser()
        below = [action for action in p._actions if isinstance(action, argparse._SubParsersAction)]
        for each in below[0].choices.values() if below else [p]:
            yield each.prog, each


PARSERS = dict(parsers())


@pytest.mark.parametrize("prog", PARSERS)
def test_help_says_everything(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    p = PARSERS[prog]
    assert isinstance(p, Parser)
    with pytest.raises(SystemExit) as end:
        p.parse_args(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"python -m {prog.removeprefix('python -m ').split()[0]}" in (p.description or prog)
    assert "exit codes:" in text and "--quiet" in text and "--verbose" in text and "--json" in text
    for action in p._actions:
        name = (action.option_strings or [action.dest])[-1]
        assert action.help, name
        if action.required or action.nargs == 0 or action.dest == "config" or action.default is argparse.SUPPRESS:
            continue
        said = p._get_formatter()._expand_help(action)
        assert "default" in said, f"{prog} {name}: {said}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_gets_one_message_with_the_right_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"experiments.{command}").main
    assert main(["--quite"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "There is no option '--quite'. Did you mean '--quiet'?\n"
    assert main(["--json", "--quite"]) == 2
    shown = capsys.readouterr()
    about = json.loads(shown.out)
    assert (shown.err, about["exit_code"], about["error"]["suggestion"]) == ("", 2, "Did you mean '--quiet'?")


def test_a_wrong_value_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert contrast_map.main(["--out", "x", "--pooling", "maen"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'mean'?\n")
    assert contrast_map.main(["--out", "x", "--width", "many"]) == 2
    assert "--width: Invalid int value: 'many'" in capsys.readouterr().err
    assert contrast_map.main([]) == 2
    assert "required: --out" in capsys.readouterr().err


def test_required_options_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("corpus: a.txt\nsite: [3, 15]\nquiet: true\n")
    p = capture.parser()
    options = shared.read(p, ["--config", str(tmp_path / "c.yaml"), "--out", "o"])
    assert (options.corpus, options.site, options.out, options.quiet) == ("a.txt", ["3", "15"], Path("o"), True)
    with pytest.raises(UserError, match="required: --out"):
        shared.read(capture.parser(), ["--config", str(tmp_path / "c.yaml")])


def put_on_scales(
    stone: str | Path,
    *,
    grams: float = 0.5,
    times: int | None = None,
    marks: tuple[int, ...] = (1, 2),
    twice: bool = False,
    side: str = "left",
) -> None:
    """Weigh.

    Parameters
    ----------
    stone : str or Path
        What is weighed.
    grams : float, default 0.5
        About 5 % of it.
    times : int, optional
        How often; see `neurosae`. Default: as often as it takes.
    marks : tuple of int
        Of `scales`.
    twice : bool, default False
        Twice.
    side : {"left", "right"}, default "left"
        Where it lies.

    Examples
    --------
    None : nothing
        Is read from here.
    """


def test_options_are_the_arguments_of_a_verb() -> None:
    p = Parser("weigh", "Weigh.")
    shared.add_arguments(p, put_on_scales, "grams", "times", "marks", "twice", "side", grams="weight-of-it")
    assert shared.given(p.parse_args([]), put_on_scales) == {"twice": False}
    asked = ["--weight-of-it", "2", "--times", "3", "--marks", "4", "5", "--twice", "--side", "right"]
    expected = {"grams": 2.0, "times": 3, "marks": [4, 5], "twice": True, "side": "right"}
    assert shared.given(p.parse_args(asked), put_on_scales) == expected
    said = " ".join(p.format_help().split())
    for text in (
        "--weight-of-it X about 5 % of it (default: 0.5)",
        "--times N how often (default: as often as it takes)",
        "of scales (default: 1 2)",
        "--side {left,right} where it lies (default: left)",
    ):
        assert text in said
    with pytest.raises(UserError, match="Did you mean 'left'"):
        p.parse_args(["--side", "lefft"])
    assert p.in_its_words(UserError("too heavy", where="grams")).where == "--weight-of-it"


def command(work: Callable[[], Summary], *arguments: str, resumes: str = "") -> int:
    """A command that does this."""
    p = Parser("weigh", "Weigh.", resumes, bound_memory=["stone"])
    p.add_argument("--stone", type=int, help="a stone")
    return console.main(p, lambda options: work(), arguments)


def speaks() -> Summary:
    """Details, log lines, a warning and an answer."""
    print("a table")
    logging.getLogger("neurosae.any").info("a step")
    logging.getLogger("other.library").info("chatter")
    warnings.warn("third-party", DeprecationWarning, stacklevel=1)
    for _ in progress_bar(range(3), desc="steps", unit="steps"):
        pass
    return Summary(["It weighs 3."], {"weight": 3, "p": math.nan}, then=["weigh --stone 2"])


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], ["a table", "It weighs 3.", "Next:"], ["a step"]),
        (["--quiet"], ["It weighs 3."], []),
        (["--verbose"], ["a table", "It weighs 3."], ["INFO neurosae.any: a step", "chatter", "third-party"]),
        (["--json"], ['"weight": 3', '"p": null'], ["a table", "a step"]),
    ],
)
def test_how_loud_a_command_is(flags: list[str], out: list[str], err: list[str], capsys: Any) -> None:
    everything = ["a table", "It weighs 3.", "Next:", "a step", "chatter", "third-party"]
    assert command(speaks, *flags) == 0
    shown = capsys.readouterr()
    assert all(part in shown.out for part in out)
    assert all(part in shown.err for part in err)
    if flags == ["--json"]:
        about = json.loads(shown.out)
        assert {"command", "version", "folder", "files", "found", "summary", "next", "seconds"} == set(about)
    elif flags == ["--quiet"]:
        assert (shown.out, shown.err) == ("It weighs 3.\n", "")
    else:
        assert not any(part in shown.out for part in set(everything) - set(out) - {"Next:"})
    assert "chatter" not in shown.err or flags == ["--verbose"]


@pytest.mark.parametrize(("flags", "times"), [([], 1), (["--quiet"], 0)])
def test_a_library_with_a_handler_of_its_own_is_heard_once(flags: list[str], times: int, capsys: Any) -> None:
    library = logging.getLogger("huggingface_hub")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)

    def work() -> Summary:
        logging.getLogger("huggingface_hub.files").warning("the hub is slow")
        return Summary()

    assert command(work, *flags) == 0
    assert handler in library.handlers
    library.removeHandler(handler)
    assert capsys.readouterr().err.count("the hub is slow") == times


def test_loudness_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("neurosae").level, os.environ.get("PYTHONWARNINGS")
    command(speaks, "--quiet")
    after = root.level, list(root.handlers), logging.getLogger("neurosae").level, os.environ.get("PYTHONWARNINGS")
    assert before == after and not logging.getLogger("neurosae.progress").disabled


def raising(error: BaseException) -> Callable[[], Summary]:
    def work() -> Summary:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("No", where="--k"), 2, ["--k: No."]),
        (CheckFailed("It leaks"), 3, ["It leaks."]),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 2, ["/out: Permission denied", "another folder"]),
        (OSError(errno.ENOSPC, "No space left on device", "/out"), 2, ["/out: No space left", "disk space"]),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, ["a: Is a directory"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, ["not UTF-8"]),
        (
            ModuleNotFoundError("No module named 'umap'", name="umap.umap_"),
            2,
            ["'umap' is not installed", "pip install"],
        ),
        (ConnectionError("hub.example refused"), 2, ["hub.example refused", "offline"]),
        (MemoryError(), 2, ["memory", "--stone"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, ["memory", "--stone"]),
        (KeyError("weight"), 1, ["Unexpected KeyError: 'weight'", "--verbose"]),
        (ModuleNotFoundError("No module named 'neurosae.x'", name="neurosae.x"), 1, ["Unexpected"]),
    ],
)
def test_errors_are_one_message_without_a_traceback(
    error: Exception, code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(raising(error)) == code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 + ("pip install" in words)
    assert all(word in shown.err for word in words)
    assert command(raising(error), "--json") == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code
    assert command(raising(error), "--verbose") == code
    assert "Traceback" in capsys.readouterr().err


def test_which_extra_has_a_missing_package() -> None:
    found = as_user_error(ModuleNotFoundError("no", name="anthropic"))
    assert found is not None
    assert str(found).endswith('Run:\npip install -c constraints.txt -e ".[llm]"')


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    work = raising(KeyboardInterrupt())
    assert command(work, "--stone", "3", resumes="Every pebble is on disk.") == 130
    shown = capsys.readouterr().err
    assert shown == "Stopped. Every pebble is on disk. Go on with:\nweigh --stone 3\n"
    assert command(work, "--json") == 130
    assert "Start again with:\nweigh --json" in json.loads(capsys.readouterr().out)["error"]["suggestion"]


def test_only_files_that_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("a")
    found = Summary(["One."], folder=tmp_path, files={"there.csv": "a table", "gone.csv": "no"}, then=["next"])
    assert found.as_text() == f"One.\n\nEverything is in {tmp_path}\n  there.csv  a table\n\nNext:\n  next"
    assert found.as_text(quiet=True) == f"One.\n{tmp_path}"


def test_a_suggested_command_is_understood_and_asks_about_the_same() -> None:
    given = "--concept 'my set.yaml' --contrast b --model their/model --sae theirs --dtype float16"
    options = combinatorial.parser().parse_args(shlex.split(given))
    for module, sae in (("generalise", True), ("discover", True), ("contrast_map", False), ("layer_sweep", False)):
        said = shared.next_command(module, options, "out", "why", sae=sae)
        words = shlex.split(said, comments=True)
        assert words[:3] == ["python", "-m", f"experiments.{module}"]
        again = importlib.import_module(f"experiments.{module}").parser().parse_args(words[3:])
        for name in ("concept", "contrast", "model", "dtype", *["sae"] * sae):
            assert getattr(again, name) == getattr(options, name)
        assert (again.out, again.device) == (Path("out"), "auto")


@pytest.mark.slow
def test_the_gate_of_the_training_says_no_with_3(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def gate(*_: object) -> None:
        raise CheckFailed("The stored SAE differs from the trained one")

    monkeypatch.setattr("neurosae.sae.train_sae.refuse_if_changed", gate)
    assert train_sae.main(["--smoke-test", "--out", str(tmp_path), "--quiet"]) == 3
    shown = capsys.readouterr()
    assert shown.err == "The stored SAE differs from the trained one.\n"
    assert not (tmp_path / "sae").exists()


def start(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """A command as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent), "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen([sys.executable, "-m", *arguments], text=True, env=environment, **pipes)


WEIGH = """
import sys
from neurosae.console import Parser, Summary, main
sys.exit(main(Parser("weigh"), lambda options: Summary(["It weighs 3."])))
"""


def weigh(*flags: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A small command as a process of its own, whose output is buffered as it usually is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", WEIGH, *flags]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False, **how)


@pytest.mark.parametrize("flag", ["--quiet", "--help", "--json"])
def test_a_closed_pipe_ends_a_command_quietly(flag: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = weigh(flag, stdout=writing)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [["--quiet"], ["--help"], ["--json"], ["--json", "--quite"]])
def test_a_full_disk_behind_stdout_is_one_message(flags: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = weigh(*flags, stdout=full)
    assert process.returncode == 2
    assert process.stderr.startswith("There is no option" if "--quite" in flags else "No space left")
    assert process.stderr.count("\n") == 1


def test_ctrl_c_before_a_command_begins_is_no_traceback() -> None:
    code = "import experiments; raise KeyboardInterrupt"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (-signal.SIGINT, "Stopped before it began.\n")


@pytest.mark.slow
def test_quiet_is_quiet_and_json_is_json_in_processes(tmp_path: Path) -> None:
    small = ["--selector", "t", "--k", "2", "--repeats", "2", "--permutations", "5", "--stages", "select"]
    process = start("experiments.combinatorial", *small, "--out", str(tmp_path), "--quiet")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    assert len(out.splitlines()) <= 8 and "held-out AUROC" in out
    process = start("experiments.combinatorial", *small, "--out", str(tmp_path), "--json")
    out, err = process.communicate(timeout=600)
    about = json.loads(out)
    assert process.returncode == 0 and about["found"]["concept"] == "success"
    assert Path(about["folder"]).is_dir() and all(Path(name).exists() for name in about["files"])
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_same_command_continues(tmp_path: Path) -> None:
    grid = "--representation raw --k 1 2 --permutations 60 --stages select --jobs 1"
    arguments = [*grid.split(), "--out", str(tmp_path)]
    process = start("experiments.combinatorial", *arguments)
    deadline = time.monotonic() + 400
    while not list(tmp_path.rglob("cells/*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err and "Go on with:\npython -m experiments.combinatorial" in err
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*.json")}
    assert finished
    assert combinatorial.main([*arguments, "--quiet"]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(tmp_path.rglob("cells/*.json"))) > len(finished)
