"""Runs an absl main so that a user's mistake is one line on stderr, not a traceback."""

from __future__ import annotations

import ast
import errno
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from absl import app, flags
from absl import logging as absl_logging

from softbio_jax import registry
from softbio_jax.errors import UserError

_EXIT_MISTAKE = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
_EXIT_UNHEARD = 141  # 128 + SIGPIPE, likewise

# Libraries that narrate their inner workings at INFO.
_NARRATORS = ("jax", "orbax", "etils", "tensorflow_datasets", "matplotlib", "PIL")

_FIXES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOSPC: "free some disk space or choose another folder",
}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses `sys.argv`, runs `main` and leaves the process with the right exit code.

    The exit code is 0 (or what `main` returns) on success, 1 for a mistake in the user's input,
    2 for a flag or a config key that does not exist or does not parse, 130 after Ctrl-C, 141 where
    whoever read the output has left (`| head`), which ends the script in silence. A mistake is told
    in one line on stderr, `error: ...`; `--debug` shows the traceback instead. An exception that is
    not the user's doing (a bug) keeps its traceback.

    Args:
      main: gets the command line without its flags, the program's name first.

    Raises:
      SystemExit: always.
    """
    if "debug" not in flags.FLAGS:
        # Defined in the script's name, so that its --help lists the flag.
        program = sys.argv[0]
        flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.", module_name=program)
        flags.DEFINE_list(
            "plugin",
            [],
            "Modules to import first, which register methods, data sets or tasks.",
            module_name=program,
        )
    _quiet_libraries()
    try:
        try:
            app.run(lambda argv: _call(main, argv), flags_parser=_parse)
        finally:
            sys.stdout.flush()  # here and not at python's end, which complains of a closed pipe
    except KeyboardInterrupt:
        _leave(_EXIT_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        unheard = [stream for stream in (sys.stdout, sys.stderr) if _is_unheard(stream)]
        if not unheard:  # a pipe to some other process
            raise
        for stream in unheard:  # what is left for it goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(_EXIT_UNHEARD)


def describe(error: BaseException) -> str | None:
    """Tells a user's mistake in one line.

    Args:
      error: what was raised.

    Returns:
      The line, or None if the error is a bug, for which a traceback says more.
    """
    if isinstance(error, UserError):
        return _one_line(error)
    # An OSError without a file (a socket, a pipe) is hardly the user's doing.
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        where = "" if error.filename is None else f": {error.filename}"
        fix = _FIXES.get(error.errno or 0, "")
        return f"{error.strerror or 'cannot be opened'}{where}" + (f"; fix: {fix}" if fix else "")
    # By its name, for a script may end without ever importing jax.
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of device memory: {_one_line(error)[:160].rstrip('.')}; fix: lower "
            "train.batch_size (of a prediction: --batch), or raise train.microbatches; "
            "scripts/plan.py tells what fits"
        )
    return None


def _call(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax and TFDS narrate through absl
    try:
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
    """Parses the flags; a config override that names no key is a usage error as well."""
    try:
        arguments: list[str] = flags.FLAGS(argv)
        for name in flags.FLAGS:
            # In the place of a config file that is missing, ml_collections leaves an object whose
            # attributes raise: ask for one now and not in the middle of the work.
            hasattr(flags.FLAGS[name].value, "lock")
        return arguments
    except SystemExit:  # --help ends with 1, yet has done what it was asked for
        sys.exit(0)
    except BrokenPipeError:  # --help | head
        raise
    except Exception as error:
        if "--debug" in argv:
            raise
        program = os.path.basename(argv[0])
        _leave(_EXIT_USAGE, f"error: {_describe_flag_error(error)}; see {program} --help")


def _describe_flag_error(error: Exception) -> str:
    """Tells in one line what absl or ml_collections found wrong with the command line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, OSError):  # several lines about a config file, the reason in the last
        return f"config file: {lines[-1]}"
    if any(line.startswith("Traceback") for line in lines):  # get_config() raised it
        return f"{lines[0]} {lines[-1].removeprefix('ValueError: ')}"
    if isinstance(error, TypeError):  # --config.seed.x=1
        return "unknown config key: a --config.KEY goes into a value that has no keys"
    if isinstance(error, AttributeError | KeyError):
        name = " ".join(_unquoted(error.args[0]).split())
        group = name.isidentifier()  # else ml_collections says more
        fix = f"; fix: correct the name, or give it whole: --config.{name}=\"{{'KEY': VALUE}}\""
        return f"unknown config key: {name}" + (f": no group of the file{fix}" if group else "")
    missing = [re.fullmatch(r"flag (--\w+)=None: .* other than None\.", line) for line in lines]
    if all(missing):
        return "a flag is missing: " + ", ".join(found[1] for found in missing if found)
    return _one_line(error)


def _unquoted(text: object) -> str:
    """A KeyError's own text is the repr of its message, and again where one is raised anew."""
    try:
        inner = ast.literal_eval(str(text))
    except (SyntaxError, ValueError):
        return str(text)
    return _unquoted(inner) if isinstance(inner, str) else str(text)


def _is_unheard(stream: TextIO) -> bool:
    """Returns whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _quiet_libraries() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the C++ half of JAX
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in _NARRATORS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _leave(code: int, line: str) -> NoReturn:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)
