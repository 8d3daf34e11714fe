"""Runs an absl main and reports a user's mistake as one line on stderr, not as a traceback."""

from __future__ import annotations

import ast
import errno
import logging
import os
import pathlib
import re
import select
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn, TextIO

from absl import app, flags
from absl import logging as absl_logging

from softbio_jax import console, registry
from softbio_jax.console import COMMANDS, as_started
from softbio_jax.errors import UserError
from softbio_jax.escaping import guarded, one_line

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folder of scripts/, configs/ and assets/: inside of the package in a wheel, otherwise the checkout.
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
_EXIT_MISTAKE = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, likewise

# Libraries that log internals at INFO.
_VERBOSE = ("jax", "orbax", "etils", "tensorflow_datasets", "matplotlib", "PIL")

_FIXES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOSPC: "free some disk space or choose another folder",
}


def run(main: Callable[[Sequence[str]], int | None], *, arguments: bool = False) -> None:
    """Parses `sys.argv`, runs `main` and exits with its exit code.

    0 (or the value that `main` returns) means success, 1 a mistake in the user's input, 2 an unknown
    or malformed flag or config key, 130 Ctrl-C, and 141 a closed pipe (`| head`), which ends the
    script silently. A mistake is one line on stderr, `error: ...`; with `--debug` it is a traceback.
    Any other exception is a bug and keeps its traceback.

    Args:
      main: takes the program name and the arguments that are not flags.
      arguments: whether the script takes such arguments; others are a usage error.

    Raises:
      SystemExit: always.
    """
    if "debug" not in flags.FLAGS:
        # Defined for the script, so that its --help lists the flags.
        program = sys.argv[0]
        flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.", module_name=program)
        flags.DEFINE_list(
            "plugin",
            [],
            "Modules to import first, which register methods, data sets or tasks.",
            module_name=program,
        )
    # Whatever is printed from here on, names of files or classes have no effect on the terminal.
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)
    _quiet_libraries()
    sys.argv[1:] = [_shipped(_at_home(argument)) for argument in sys.argv[1:]]
    script = sys.modules["__main__"]
    script.__doc__ = as_started(script.__doc__ or "")  # which --help prints
    try:
        try:
            app.run(lambda argv: _call(main, argv, arguments), flags_parser=_parse)
        finally:
            sys.stdout.flush()  # here, since Python complains about a closed pipe at exit
    except KeyboardInterrupt:
        _leave(_EXIT_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not closed:  # a pipe to some other process
            raise
        for stream in closed:  # discard the rest of the output
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(_EXIT_BROKEN_PIPE)


def script_of(name: str) -> pathlib.Path:
    """Returns the script of a command of `COMMANDS`."""
    return SHIPPED / "scripts" / f"{COMMANDS[name]}.py"


def refuse_ignored(mode: str, readers: Mapping[str, Collection[str]]) -> None:
    """Refuses the flags of the command line that the chosen mode would ignore.

    Args:
      mode: what the other flags select, as the user writes it.
      readers: flag -> the modes that read it; all modes read the other flags.

    Raises:
      UserError: such a flag.
    """
    for name, modes in readers.items():
        if mode not in modes and flags.FLAGS[name].present:
            raise UserError(
                "a flag does not apply",
                where=f"--{name}",
                expected=" or ".join(modes),
                found=mode,
                fix=f"omit --{name}",
            )


def describe(error: BaseException) -> str | None:
    """Returns a user's mistake as one line, or None for a bug, which needs its traceback."""
    if isinstance(error, UserError):
        return _one_line(error)
    # An OSError without a file (a socket, a pipe) is rarely the user's mistake.
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        where = "" if error.filename is None else f": {one_line(os.fsdecode(error.filename))}"
        fix = _FIXES.get(error.errno or 0, "")
        return f"{error.strerror or 'cannot be opened'}{where}" + (f"; fix: {fix}" if fix else "")
    # Compared by name, since a script may end without importing jax.
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of device memory: {_one_line(error)[:160].rstrip('.')}; fix: lower "
            "train.batch_size (of a prediction: --batch), or raise train.microbatches; "
            "scripts/plan.py finds what fits"
        )
    return None


def _call(main: Callable[[Sequence[str]], int | None], argv: Sequence[str], arguments: bool) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax and TFDS log through absl
    try:
        if argv[1:] and not arguments:
            found = f"{argv[1]!r} is neither a flag nor the value of one"
            raise app.UsageError(
                f"{found}; write values as in --flag=value, and switches as --flag or --noflag"
            )
        for module in flags.FLAGS["plugin"].value or ():
            registry.load_plugin(module)
        return main(argv)
    except app.UsageError as error:
        _leave(_EXIT_USAGE, f"error: {_one_line(error)}")
    except Exception as error:
        line = describe(error)
        if line is None or flags.FLAGS["debug"].value:
            raise
        _leave(_EXIT_MISTAKE, f"error: {line}")


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; a config override of an unknown key is a usage error too."""
    try:
        arguments: list[str] = flags.FLAGS(argv)
        for name in flags.FLAGS:
            # For a missing config file, ml_collections returns an object whose attributes raise:
            # access one now, not in the middle of the work.
            hasattr(flags.FLAGS[name].value, "lock")
        return arguments
    except SystemExit:  # absl exits with 1 after --help
        sys.exit(0)
    except BrokenPipeError:  # --help | head
        raise
    except Exception as error:
        if "--debug" in argv:
            raise
        program = console.started_as or os.path.basename(argv[0])
        _leave(_EXIT_USAGE, f"error: {_describe_flag_error(error)}; see {program} --help")


def _describe_flag_error(error: Exception) -> str:
    """Returns an error of absl or ml_collections about the command line as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, OSError):  # several lines about a config file, with the reason in the last
        return f"config file: {lines[-1]}"
    if any(line.startswith("Traceback") for line in lines):  # get_config() raised it
        return f"{lines[0]} {lines[-1].removeprefix('ValueError: ')}"
    if isinstance(error, TypeError):  # --config.seed.x=1
        return "unknown config key: a --config.KEY goes into a value that has no keys"
    if isinstance(error, AttributeError | KeyError):
        name = " ".join(_unquoted(error.args[0]).split())
        group = name.isidentifier()  # otherwise ml_collections' message has more
        fix = f"; fix: correct the name, or set all of it: --config.{name}=\"{{'KEY': VALUE}}\""
        return f"unknown config key: {name}" + (f": no group of the file{fix}" if group else "")
    missing = [re.fullmatch(r"flag (--\w+)=None: .* other than None\.", line) for line in lines]
    if all(missing):
        return "a flag is missing: " + ", ".join(found[1] for found in missing if found)
    return _one_line(error)


def _unquoted(text: object) -> str:
    """Returns a KeyError's message, whose text is quoted once per re-raise."""
    try:
        inner = ast.literal_eval(str(text))
    except (SyntaxError, ValueError):
        return str(text)
    return _unquoted(inner) if isinstance(inner, str) else str(text)


def _has_no_reader(stream: TextIO) -> bool:
    """Returns whether a stream is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _at_home(argument: str) -> str:
    """Expands the `~` of paths, which shells leave alone inside --flag=~/path."""
    before = r"(?<=[=,])" if argument.startswith("-") else "^"
    return re.sub(before + "~(?=/|$)", lambda _: os.path.expanduser("~"), argument)


def _shipped(argument: str) -> str:
    """Finds configs/ and assets/ of the package from any folder: --config=configs/demo.py."""
    found = re.fullmatch(r"(--?[\w.]+=)((?:configs|assets)/[^:]+)(.*)", argument, re.DOTALL)
    if not found or pathlib.Path(found[2]).exists() or not (SHIPPED / found[2]).exists():
        return argument
    return f"{found[1]}{SHIPPED / found[2]}{found[3]}"


def _quiet_libraries() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the C++ half of JAX
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)
    if not sys.stderr.isatty():  # a bar of carriage returns is for terminals
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _leave(code: int, line: str) -> NoReturn:
    sys.stdout.flush()
    print(as_started(line), file=sys.stderr, flush=True)
    sys.exit(code)
