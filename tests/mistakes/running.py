"""What a mistake is, and running a command or a call as a user would, without a new process."""

import contextlib
import dataclasses
import io
import pathlib
import re
import runpy
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from softbio_jax import command

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a user sees: the exit code and the lines on stderr and stdout."""

    code: int
    lines: tuple[str, ...]
    out: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Where a mistake is made.

    Args:
      tmp: an empty folder of its own.
      data: prepared sets of drawn faces.
      config: a run on them, as a nested dict to be changed.
      patch: pytest's monkeypatch.
    """

    tmp: pathlib.Path
    data: pathlib.Path
    config: dict[str, Any]
    patch: Any

    def script(self, name: str, *arguments: object) -> Told:
        """Runs a script; its folder of the repository is not left."""
        self.patch.setattr(app, "run", _run)
        path = str(ROOT / "scripts" / name)
        self.patch.setattr(sys, "argv", [path, *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with _own_flags(path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(path, run_name="__main__")
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
        return Told(code, tuple(err.getvalue().splitlines()), out.getvalue())

    def train(self, *arguments: object, **changes: object) -> Told:
        """Runs scripts/train.py on the run with dotted keys changed (__ for the dot)."""
        from tests.runs.tiny import changed

        # Beside the tree whose files are counted, for it is not what the command writes.
        path = self.tmp.parent / f"{self.tmp.name}_config.py"
        path.write_text(
            "import ml_collections\n\n\ndef get_config():\n"
            f"    return ml_collections.ConfigDict({changed(self.config, **changes)!r})\n"
        )
        workdir = self.tmp / "run"
        return self.script("train.py", f"--config={path}", f"--workdir={workdir}", *arguments)

    def call(self, function: Callable[[], object]) -> Told:
        """Makes a call of the Python API; what a script would print of its error."""
        try:
            function()
        except Exception as error:
            line = command.describe(error)
            if line is None:
                raise
            return Told(1, (f"error: {line}",))
        return Told(0, ())

    def files(self) -> set[str]:
        return {str(path) for path in self.tmp.rglob("*")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """A row of the table.

    Args:
      name: what was done, in the words of docs/mistakes.md.
      make: prepares the world and returns what to run; `wrong` False makes it right instead.
      cause: the regex of what the line must say is wrong.
      fix: the regex of what it must say to do, after "fix: ".
      right: whether the right input is run as well, and must pass.
      code: the exit code; 2 is for what is wrong with the command line itself.
    """

    name: str
    make: Callable[[World, bool], Callable[[], Told]]
    cause: str
    fix: str
    right: bool = True
    code: int = 1

    def check(self, told: Told) -> None:
        assert len(told.lines) == 1, "\n".join(told.lines) or "nothing was said"
        (line,) = told.lines
        assert told.code == self.code, line
        assert line.startswith("error: "), line
        # Of rejected rows the line has their own fixes, too; the last one is its own.
        said, found, advice = line.rpartition("; fix: " if self.code == 1 else "; see ")
        assert found, f"no fix: {line}"
        assert re.search(self.cause, said), f"cause: {line}"
        assert re.search(self.fix, advice), f"fix: {line}"


def _run(main: Callable, flags_parser: Callable) -> None:
    # app.run without what it does to the process: handlers, faulthandler, profiling.
    sys.exit(main(flags_parser(sys.argv)))


@contextlib.contextmanager
def _own_flags(path: str):
    try:
        yield
    finally:
        values = flags.FLAGS
        modules = values.flags_by_module_dict()
        own = [flag.name for flag in modules.get(path, ())]
        own += [name for name in values if name == "config" or name.startswith("config.")]
        for name in set(own) & set(values):
            delattr(values, name)
