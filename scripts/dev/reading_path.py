"""Counts the files of the package that a reader must open to follow a phase of the demo.

python scripts/dev/reading_path.py --list
python scripts/dev/reading_path.py --sizes
python scripts/dev/reading_path.py --walks

The last two run nothing: they print the sizes of modules, and how often the three ways of
docs/architecture.md change modules and return to one. The first runs a small demo under
`sys.setprofile` and counts the files of which a function was called:

    step        while `Session.compile` traces and compiles the train step
    evaluation  while the trained run is evaluated
    demo        from the configuration to the metrics; step and evaluation are parts of it
    drawing     while the data sets are drawn
    guards      of the demo's, the modules that only check or escape what comes from outside; they are
                not counted elsewhere, since a run can be followed without opening them

A thread's calls count for the phases in which it was started, so that prefetching for training does
not count for the evaluation. Code that runs during an import does not count, nor does `__init__.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
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
_SIZES = flags.DEFINE_bool("sizes", False, "Print the sizes of modules.")
_WALKS = flags.DEFINE_bool("walks", False, "Print the walks of docs/architecture.md.")

# Of the copy that is imported, which need not be this file's.
_PACKAGE = pathlib.Path(softbio_jax.__file__).resolve().parent
_SCRIPTS = _PACKAGE.parent / "scripts"
_DEMO = _SCRIPTS / "demo.py"

# Phase -> the function that it is: the outermost call of that name in the package or the demo.
_OF_PACKAGE = {"step": "compile", "evaluation": "evaluate"}
_OF_DEMO = {"drawing": "_draw", "demo": "_adapt"}
_PHASES = ("step", "evaluation", "demo", "drawing")
_GUARDS = ("safety/", "ranges.py", "escaping.py", "moved.py", "data/features.py", "interop/reading/beside.py")
_STEP = "make_train_step.<locals>."  # what the phase `step` must have called

# Few faces; the schedule of configs/demo.py warms up for 20 steps, and a run must be longer.
_SMALL = {"faces": 200, "test_faces": 20, "steps": 21}


def main(argv: Sequence[str]) -> None:
    del argv
    if _SIZES.value:
        for folder in (_PACKAGE, _SCRIPTS):
            print(_sizes(folder))
        return
    if _WALKS.value:
        page = (_PACKAGE.parent / "docs" / "architecture.md").read_text()
        for name, stays in walks(page).items():
            modules = len(set(stays))
            print(f"{name}: {len(stays)} stays in {modules} modules, {len(stays) - modules} returns")
        return
    print(f"package: {_PACKAGE}")
    for phase, files in count().items():
        print(f"{phase}: {len(files)} files")
        if _LIST.value:
            print(*(f"  {file}" for file in files), sep="\n")


def walks(page: str) -> dict[str, list[str]]:
    """Returns, per way through the code on a page, the modules that its links visit in order."""
    section = page.partition("\n## Three ways")[2].partition("\n## ")[0]
    found = {}
    for way in re.split(r"^(?=\*\*)", section, flags=re.MULTILINE)[1:]:
        links = re.findall(r"\]\(\.\./([\w/]+\.py)\)", way)
        found[way.split("**")[1].rstrip(".")] = [
            link for before, link in zip(["", *links], links, strict=False) if link != before
        ]
    return found


def count() -> dict[str, list[str]]:
    """Runs a small demo, with its output on stderr; once per process, since traces are cached.

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
                "a phase was never entered",
                where=phase,
                expected=f"a call of {function}",
                found="none",
                fix="correct the function's name in scripts/dev/reading_path.py",
            )
    if not profile.traced:
        raise UserError(
            "the train step was not traced in its phase",
            where=f"step ({_OF_PACKAGE['step']})",
            expected=f"a call of {_STEP}*",
            found="none",
            fix="correct the names in scripts/dev/reading_path.py",
        )
    found = {
        phase: sorted(file for file in profile.files[phase] if not file.startswith(_GUARDS))
        for phase in _PHASES
    }
    return found | {"guards": sorted(file for file in profile.files["demo"] if file.startswith(_GUARDS))}


@dataclasses.dataclass
class _Work:
    """The state of a thread: its call depth in each phase, and in imports."""

    depths: dict[str, int]
    importing: int = 0

    def phases(self) -> list[str]:
        return [phase for phase, depth in self.depths.items() if depth]


class _Profile:
    """A profile function for every thread that records the files each phase executes."""

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
        """Records a call of, or return from, a function of the package or the demo."""
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
        """Returns the state of this thread, which starts in the phases it was started in."""
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
                path.relative_to(_PACKAGE).as_posix() if inside else _DEMO.name if path == _DEMO else ""
            )
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
    """Returns the number and sizes of a folder's modules; `__init__.py` only counts in lines."""
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
