"""Counts the files of the package that a reader must open to follow a phase of the demo.

python scripts/dev/reading_path.py --list
python scripts/dev/reading_path.py --sizes

It runs a small demo under `sys.setprofile` and counts the files of which a function was called:

    step        while the train step is traced and compiled
    evaluation  while the trained run is evaluated
    demo        from the configuration to the metrics; step and evaluation are parts of it
    drawing     while the sets are drawn, before all that

A thread's calls count for the phases in which it was started, so reading ahead for training does
not count for the evaluation. What runs while a module is imported does not count, nor does an
`__init__.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import runpy
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

from absl import flags

import softbio_jax
from softbio_jax import command
from softbio_jax.errors import UserError

_LIST = flags.DEFINE_bool("list", False, "List the files of each phase.")
_SIZES = flags.DEFINE_bool("sizes", False, "Print how large the modules are, without a run.")

# Of the copy that is imported, which need not be this file's.
_PACKAGE = pathlib.Path(softbio_jax.__file__).resolve().parent
_SCRIPTS = _PACKAGE.parent / "scripts"
_DEMO = _SCRIPTS / "demo.py"

# Phase -> the function that it is: the outermost call of that name in the package or the demo.
_OF_PACKAGE = {"step": "compile", "evaluation": "evaluate"}
_OF_DEMO = {"drawing": "_draw", "demo": "_adapt"}
_PHASES = ("step", "evaluation", "demo", "drawing")
_STEP = "make_train_step.<locals>."  # what the phase `step` must have called

# Few faces; the schedule of configs/demo.py warms up for 20 steps, and a run must be longer.
_SMALL = {"faces": 200, "test_faces": 20, "steps": 21}


def main(argv: Sequence[str]) -> None:
    del argv
    if _SIZES.value:
        for folder in (_PACKAGE, _SCRIPTS):
            print(_sizes(folder))
        return
    print(f"package: {_PACKAGE}")
    for phase, files in count().items():
        print(f"{phase}: {len(files)} files")
        if _LIST.value:
            print(*(f"  {file}" for file in files), sep="\n")


def count() -> dict[str, list[str]]:
    """Runs a small demo; what it prints goes to stderr. One run a process: a trace is cached.

    Returns:
      phase -> the files that it executes, relative to the package.

    Raises:
      UserError: a phase was never entered, or the train step was not traced in its phase.
    """
    demo = runpy.run_path(str(_DEMO))
    profile = _Profile()
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        for name, value in {"out": out, **_SMALL}.items():
            flags.FLAGS[name].value = value
        with _profiled(profile):
            demo["main"]([])
    for phase, function in (_OF_PACKAGE | _OF_DEMO).items():
        if not profile.files[phase]:
            raise UserError(
                "a phase was never entered", where=phase, expected=f"a call of {function}",
                found="none", fix="correct the function's name in scripts/dev/reading_path.py",
            )  # fmt: skip
    if not profile.traced:
        raise UserError(
            "the train step was not traced in its phase", where=f"step ({_OF_PACKAGE['step']})",
            expected=f"a call of {_STEP}*", found="none",
            fix="correct the names in scripts/dev/reading_path.py",
        )  # fmt: skip
    return {phase: sorted(profile.files[phase]) for phase in _PHASES}


@dataclasses.dataclass
class _Work:
    """What a thread does: how deep it is in each phase, and in modules that are imported."""

    depths: dict[str, int]
    importing: int = 0

    def phases(self) -> list[str]:
        return [phase for phase, depth in self.depths.items() if depth]


class _Profile:
    """A profile function for every thread, which keeps the files that each phase executes."""

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {phase: set() for phase in _PHASES}
        self.traced = False
        self._own = threading.local()
        self._started: dict[threading.Thread, list[str]] = {}
        self._places: dict[str, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        code, change = frame.f_code, 1 if event == "call" else -1
        if code.co_name == "<module>":
            self._work().importing += change
        elif code is threading.Thread.start.__code__:
            if change == 1:
                self._started[frame.f_locals["self"]] = self._work().phases()
        elif place := self._place(code.co_filename):
            self._note(place, code, change)

    def _note(self, place: str, code: CodeType, change: int) -> None:
        """Notes that a function of the package or of the demo is called or left."""
        work = self._work()
        in_demo = place == _DEMO.name
        for phase, function in (_OF_DEMO if in_demo else _OF_PACKAGE).items():
            if code.co_name == function:
                work.depths[phase] += change
        if in_demo or change < 0 or work.importing or place.endswith("__init__.py"):
            return
        for phase in work.phases():
            self.files[phase].add(place)
        if work.depths["step"] and code.co_qualname.startswith(_STEP):
            self.traced = True

    def _work(self) -> _Work:
        """Returns what this thread does; at its start, that is what it was started for."""
        if not hasattr(self._own, "work"):
            phases = self._started.pop(threading.current_thread(), [])
            self._own.work = _Work({phase: int(phase in phases) for phase in _PHASES})
        return self._own.work

    def _place(self, filename: str) -> str:
        """Returns a file's path in the package, the demo's name, or "" for any other file."""
        if filename not in self._places:
            path = pathlib.Path(filename)
            inside = _PACKAGE in path.parents
            self._places[filename] = (
                path.relative_to(_PACKAGE).as_posix() if inside
                else _DEMO.name if path == _DEMO else ""
            )  # fmt: skip
        return self._places[filename]


@contextlib.contextmanager
def _profiled(function: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    threading.setprofile(function)
    sys.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # typeshed forgets the None


def _sizes(folder: pathlib.Path) -> str:
    """Tells how many modules a folder has and how long they are; `__init__.py` counts in lines."""
    lengths = {
        path: len(path.read_text().splitlines())
        for path in sorted(folder.rglob("*.py"))
        if "__pycache__" not in path.parts
    }
    modules = {path: lines for path, lines in lengths.items() if path.name != "__init__.py"}
    largest = max(modules, key=lambda path: (modules[path], path))
    return (
        f"{folder.name}: {len(modules)} modules, {sum(lengths.values()):,} lines, "
        f"median {statistics.median(modules.values()):.0f}, "
        f"largest {modules[largest]} ({largest.relative_to(folder.parent)})"
    )


if __name__ == "__main__":
    command.run(main)
