"""Runs a command or a call as a user would, without a new process, and checks its error."""

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
class Output:
    """The exit code, the lines on stderr, and stdout."""

    code: int
    lines: tuple[str, ...]
    out: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandbox:
    """The folder and data in which a mistake is made.

    Args:
      tmp: an empty folder.
      data: prepared sets of rendered faces.
      config: the configuration of a run on them, as a nested dict.
      patch: pytest's monkeypatch.
    """

    tmp: pathlib.Path
    data: pathlib.Path
    config: dict[str, Any]
    patch: Any

    def script(self, name: str, *arguments: object) -> Output:
        """Runs a script in this process."""
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
        return Output(code, tuple(err.getvalue().splitlines()), out.getvalue())

    def train(self, *arguments: object, **changes: object) -> Output:
        """Runs scripts/train.py on the run with dotted keys changed (__ for the dot)."""
        from tests.runs.tiny import changed

        # Outside tmp, whose files are compared before and after the command.
        path = self.tmp.parent / f"{self.tmp.name}_config.py"
        path.write_text(
            "import ml_collections\n\n\ndef get_config():\n"
            f"    return ml_collections.ConfigDict({changed(self.config, **changes)!r})\n"
        )
        workdir = self.tmp / "run"
        return self.script("train.py", f"--config={path}", f"--workdir={workdir}", *arguments)

    def call(self, function: Callable[[], object]) -> Output:
        """Calls the Python API; returns the error as a script would print it."""
        try:
            function()
        except Exception as error:
            line = command.describe(error)
            if line is None:
                raise
            return Output(1, (f"error: {line}",))
        return Output(0, ())

    def files(self) -> set[str]:
        return {str(path) for path in self.tmp.rglob("*")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """One section of docs/mistakes.md.

    Args:
      name: the heading in docs/mistakes.md.
      make: prepares the sandbox and returns the call to run; with `wrong` False, the correct one.
      cause: a regex for the cause in the message.
      fix: a regex for the remedy after "fix: ".
      right: whether the correct input is also run, and must pass.
      code: the exit code; 2 for errors in the command line itself.
    """

    name: str
    make: Callable[[Sandbox, bool], Callable[[], Output]]
    cause: str
    fix: str
    right: bool = True
    code: int = 1

    def check(self, output: Output) -> None:
        assert len(output.lines) == 1, "\n".join(output.lines) or "nothing was printed"
        (line,) = output.lines
        assert output.code == self.code, line
        assert line.startswith("error: "), line
        # Rejected rows are quoted with their own fixes; the last fix is that of the line.
        said, found, advice = line.rpartition("; fix: " if self.code == 1 else "; see ")
        assert found, f"no fix: {line}"
        assert re.search(self.cause, said), f"cause: {line}"
        assert re.search(self.fix, advice), f"fix: {line}"


def _run(main: Callable, flags_parser: Callable) -> None:
    # app.run without its side effects: handlers, faulthandler, profiling.
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
