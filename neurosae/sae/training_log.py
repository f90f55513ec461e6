"""The log of a training: a CSV that survives interruptions, and TensorBoard or Weights & Biases if asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path


class Sink(NamedTuple):
    """Somewhere else that rows go: how to send one, and how to end."""

    write: Callable[[dict[str, float]], None]
    close: Callable[[], None]


class TrainingLog:
    """Rows with a ``step``, written as they come; a training that goes on from a checkpoint drops what came after it.

    A context manager: at its end, whatever `also` opened is closed.

    Parameters
    ----------
    path : Path
        The CSV file.
    step : int, default 0
        Rows of later steps are removed.
    also : {"tensorboard", "wandb"}, optional
        Send every row there too; files go beside the CSV.
    """

    def __init__(self, path: Path, step: int = 0, also: str | None = None) -> None:
        self._path = path
        self._also = _open(also, path.parent) if also else None
        rows = _rows(path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if path.is_file():  # always, or the next row would be glued to what a kill left of one
            with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                if kept:
                    writer = csv.DictWriter(stream, kept[0])
                    writer.writeheader()
                    writer.writerows(kept)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what `also` opened; the CSV is complete after every row."""
        if self._also:
            self._also.close()
            self._also = None

    def write(self, row: dict[str, float]) -> None:
        """Append a row; all rows have the same columns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if not stream.tell():
                writer.writeheader()
            writer.writerow(row)
        if self._also:
            self._also.write(row)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        text = stream.read()
    whole = text[: text.rfind("\n") + 1]  # a kill may leave half a row at the end
    return [row for row in csv.DictReader(io.StringIO(whole, newline="")) if None not in row.values()]


def _tensorboard(folder: Path) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(row: dict[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    return Sink(write, writer.close)


def _wandb(folder: Path) -> Sink:
    import wandb

    try:
        run = wandb.init(project="neurosae", name=folder.resolve().name, dir=folder)
    except wandb.Error as error:
        raise UserError(f"wandb cannot start: {error}", where="log") from error
    return Sink(lambda row: run.log(row, step=int(row["step"])), run.finish)


LOGS: dict[str, Callable[[Path], Sink]] = {"tensorboard": _tensorboard, "wandb": _wandb}


def _open(name: str, folder: Path) -> Sink:
    if name not in LOGS:
        raise unknown_name("log", name, LOGS, where="log")
    try:
        return LOGS[name](folder)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed", where="log", suggestion='Run:\npip install -c constraints.txt -e ".[logging]"'
        ) from error
