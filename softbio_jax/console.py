"""How long work reports to a user: messages, one progress line, durations, percentages and tables."""

import contextlib
import pathlib
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from softbio_jax.escaping import one_line, unguarded, visible

# What follows `softbio-jax` -> the module of scripts/.
COMMANDS = {
    "demo": "demo",
    "prepare": "prepare_data",
    "audit": "audit_data",
    "composite": "composite",
    "train": "train",
    "distill": "distill",
    "sweep": "sweep",
    "evaluate": "evaluate",
    "report": "report",
    "predict": "predict",
    "app": "demo_app",
    "export": "export",
    "latency": "latency",
    "convert": "convert",
    "parity": "parity",
    "plan": "plan",
    "benchmark": "benchmark",
    "study": "small_reproduction",
}
started_as = ""  # how the user started the command: "softbio-jax train", ".venv/bin/python scripts/train.py"

_EVERY = 10.0  # seconds between two progress lines where they cannot replace each other


def start_as(name: str) -> None:
    """Notes how the user started the command, for messages, see `started_as`."""
    global started_as
    started_as = name


def interpreter() -> str:
    """Returns what runs this python in the shell that started it, whose environment need not be active."""
    python, here = pathlib.Path(sys.executable), pathlib.Path.cwd()
    if (found := shutil.which("python")) and pathlib.Path(found) == python.with_name("python"):
        return "python"
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def as_started(text: str) -> str:
    """Returns text in which commands are written as the user started this one.

    With `softbio-jax train`, `python scripts/report.py RUN` becomes `softbio-jax report RUN`. With
    `.venv/bin/python scripts/train.py`, a command with flags and no python has that one before it.
    """
    if not started_as:
        return text
    names = {script: name for name, script in COMMANDS.items()}
    scripts = rf"(?<![\w/])scripts/({'|'.join(names)})\.py\b"
    if not started_as.startswith("softbio-jax"):
        folder = started_as.rpartition("/")[0]
        return re.sub(
            rf"(?<!python ){scripts}(?= (?:-|\S+ --))", lambda found: f"{folder}/{found[1]}.py", text
        )
    return re.sub(rf"(?:python )?{scripts}", lambda found: f"softbio-jax {names[found[1]]}", text)


class Console:
    """Prints messages, keeps one progress line below them, and lets work be interrupted.

    On a terminal the progress line is redrawn in place, with a bar; elsewhere it is a line of its
    own. Functions that take a console never print by themselves. Control characters
    of names are written out, see `escaping.visible`.

    Args:
      active: whether anything is printed; False on all processes but the first.
      out: where to print; None: standard output.
      check: called between two parts of long work; raises to end it.
    """

    def __init__(
        self, *, active: bool = True, out: TextIO | None = None, check: Callable[[], None] = lambda: None
    ):
        self.active, self._out, self.check = active, out or sys.stdout, check
        self.redraws = active and self._out.isatty()  # the progress line, in place
        self._live: _Live | None = None

    def say(self, text: str) -> None:
        """Prints a line that stays, see `as_started`."""
        text = as_started(text)
        if self._live is not None:
            self._live.say(visible(text))
        elif self.active:
            print(visible(text), file=self._out, flush=True)

    def show(self, line: str, done: int, total: int) -> None:
        """Shows the progress line: `done` of `total` parts."""
        line = one_line(line)
        if self.redraws:
            if self._live is None:
                self._live = _Live(unguarded(self._out))
            self._live.show(line, done, total)
        elif self.active:
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        """Leaves the progress line as it is; a later `show` starts a new one."""
        if self._live is not None:
            self._live.close()
            self._live = None

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Shows the time that a block has taken so far, every second on a terminal, otherwise every ten."""
        begun, done = time.perf_counter(), threading.Event()

        def follow() -> None:
            while not done.wait(1.0 if self.redraws else _EVERY):
                self.show(f"{name}: {duration(time.perf_counter() - begun)}", 0, 0)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def meter(self, name: str, total: int, *, unit: str = "images") -> "Meter":
        """Returns the progress of one piece of work over `total` units."""
        return Meter(self, name, total, unit)


QUIET = Console(active=False)


class Meter:
    """Progress of one piece of work: shown every ten seconds, on a terminal ten times a second.

    Args:
      console: where it is shown.
      name: what the line starts with.
      total: number of units; 0: unknown.
      unit: what they are called.
    """

    def __init__(self, console: Console, name: str, total: int, unit: str):
        self._console, self._name, self._total, self._unit = console, name, total, unit
        self.done = 0
        self._begun = self._shown = time.perf_counter()

    def add(self, n: int = 1) -> None:
        """Counts n more units."""
        self.done += n
        now = time.perf_counter()
        if now - self._shown >= (0.1 if self._console.redraws else _EVERY):
            self._shown = now
            self.show()

    def show(self) -> None:
        """Shows how far the work is, its rate and the time left."""
        spent = max(time.perf_counter() - self._begun, 1e-9)
        of = f" of {self._total:,}" if self._total else ""
        line = f"{self._name}: {self.done:,}{of} {self._unit}, {self.done / spent:,.1f} /s"
        if 0 < self.done < self._total:
            line += f", {duration(spent / self.done * (self._total - self.done))} left"
        self._console.show(line, self.done, self._total)


class _Live:
    """The progress line at the bottom of a terminal."""

    def __init__(self, out: TextIO):
        from rich import console, progress, table

        one_line = table.Column(no_wrap=True, overflow="ellipsis")
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=16),
            progress.TextColumn("{task.description}", table_column=one_line, markup=False),
            console=console.Console(file=out, highlight=False),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)

    def show(self, line: str, done: int, total: int) -> None:
        self._bar.start()  # does nothing where it has been started
        self._bar.update(self._task, completed=done, total=total or None, description=line, refresh=True)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def duration(seconds: float) -> str:
    """Returns a time as minutes and seconds, with hours where there are any.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def percent(share: float, digits: int = 2) -> str:
    """Returns a share as a percentage without its sign: `percent(0.5)` is '50.00'."""
    return f"{100 * share:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]], *, text_columns: int = 2) -> str:
    """Returns cells as aligned lines with a rule below the first: words left, numbers right.

    >>> print(aligned([("task", "n"), ("age", "600")], text_columns=1))
    task    n
    ----  ---
    age   600
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns cells as a Markdown table, without a last newline.

    >>> print(markdown(("task", "n"), [("age", "600")]))
    | task | n |
    | --- | --- |
    | age | 600 |
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
