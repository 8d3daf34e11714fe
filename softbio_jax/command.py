"""Runs an absl main and reports a user's mistake as one line on stderr, not as a traceback."""

from __future__ import annotations

import ast
import errno
import importlib.util
import logging
import math
import os
import pathlib
import re
import select
import shlex
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TextIO

from absl import app, flags
from absl import logging as absl_logging

from softbio_jax import console, registry
from softbio_jax.console import COMMANDS, as_started
from softbio_jax.errors import UserError
from softbio_jax.escaping import guarded, one_line

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folder of scripts/, configs/ and assets/: inside of the package in a wheel, otherwise the checkout.
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
# Of a run's configuration, the keys that most users set.
COMMON_KEYS = (
    *("seed", "tasks", "model.variant", "model.pretrained", "data.root", "data.train", "data.test"),
    *("train.steps", "train.batch_size", "train.microbatches", "optimizer.rates.GROUP", "optimizer.schedule"),
    *("compute.dtype", "compute.remat", "mesh.fsdp"),
)
_TRAINING = ("train", "distill", "sweep", "plan")  # whose --config is that of a run
_EXIT_MISTAKE = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, likewise

# Libraries that log internals at INFO.
_VERBOSE = ("jax", "orbax", "etils", "tensorflow_datasets", "matplotlib", "PIL")
# Of the PCI devices, and what libtpu would ask others for.
_DEVICES, _GOOGLE = pathlib.Path("/sys/bus/pci/devices"), "0x1ae0"
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}

_FIXES = {
    errno.ENOENT: "check the path",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check the permissions"),
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
    if not console.started_as and pathlib.Path(sys.argv[0]).parent.name == "scripts":
        console.start_as(f"{console.interpreter()} {shlex.quote(sys.argv[0])}")
    more = _configurations(pathlib.Path(sys.argv[0]).stem) if "config" in flags.FLAGS else ""
    script.__doc__ = as_started((script.__doc__ or "") + more)  # which --help prints
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
        sys.exit(EXIT_BROKEN_PIPE)


def summary_of(file: pathlib.Path) -> str:
    """Returns the first line of a Python file's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def configurations() -> list[pathlib.Path]:
    """Returns the files of configs/ that the package carries."""
    return sorted((SHIPPED / "configs").glob("*.py"))


def _configurations(script: str) -> str:
    """Returns what a script's --help says of the configurations in the package, and of a run's keys."""
    paths = configurations()
    width = max((len(path.name) for path in paths), default=0)
    rows = "".join(f"  configs/{path.name:<{width}}  {summary_of(path)}\n" for path in paths)
    keys = textwrap.fill(", ".join(COMMON_KEYS), initial_indent="  ", subsequent_indent="  ")
    common = f"\ncommon keys, which softbio-jax config explains with the others:\n{keys}\n"
    return f"\nconfigurations:\n{rows}" + (common if script in _TRAINING else "")


def script_of(name: str) -> pathlib.Path:
    """Returns the script of a command of `COMMANDS`."""
    return SHIPPED / "scripts" / f"{COMMANDS[name]}.py"


class Processes(NamedTuple):
    """The flags of a command that several processes run together."""

    multihost: flags.FlagHolder[bool]
    coordinator: flags.FlagHolder[str | None]
    process_id: flags.FlagHolder[int | None]
    processes: flags.FlagHolder[int | None]

    def described(self) -> dict[str, Any]:
        """Returns the arguments of `parallel.start_distributed`."""
        names = ("coordinator", "process_id", "processes")
        return {name: getattr(self, name).value for name in names}

    def refuse_ignored(self) -> None:
        """Refuses the others without --multihost."""
        mode = "--multihost" if self.multihost.value else "no --multihost"
        refuse_ignored(mode, dict.fromkeys(self._fields[1:], ("--multihost",)))


def define_processes() -> Processes:
    """Defines --multihost and the flags that describe the processes where JAX cannot find them."""
    program, required = sys.argv[0], "required with --multihost outside TPU pods and SLURM."
    return Processes(
        flags.DEFINE_bool(
            "multihost",
            False,
            "Start JAX's distributed runtime; TPU pods and SLURM need no other flag.",
            module_name=program,
        ),
        flags.DEFINE_string("coordinator", None, f"HOST:PORT of process 0; {required}", module_name=program),
        flags.DEFINE_integer(
            "process_id", None, f"Index of this process (0-based); {required}", module_name=program
        ),
        flags.DEFINE_integer("processes", None, f"Number of processes; {required}", module_name=program),
    )


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
            _check_value(flags.FLAGS[name])
        return arguments
    except SystemExit:  # absl exits with 1 after --help
        sys.exit(0)
    except BrokenPipeError:  # --help | head
        raise
    except Exception as error:
        if "--debug" in argv:
            raise
        installed = console.started_as.startswith("softbio-jax")
        program = console.started_as if installed else os.path.basename(argv[0])
        _leave(_EXIT_USAGE, f"error: {_describe_flag_error(error)}; see {program} --help")


def _check_value(flag: flags.Flag) -> None:
    """Refuses what absl accepts: an empty name in a list, which would be the current folder, and NaN."""
    value = flag.value
    if isinstance(value, list) and any(isinstance(item, str) and not item.strip() for item in value):
        raise flags.Error(f"flag --{flag.name}={','.join(value)}: an empty entry; drop the comma")
    if flag.present and value == [] and flag.default is None:
        raise flags.Error(f"flag --{flag.name}: an empty list; name something, or omit the flag")
    if isinstance(value, float) and math.isnan(value):
        raise flags.Error(f"flag --{flag.name}=nan: expected a number")


def _describe_flag_error(error: Exception) -> str:
    """Returns an error of absl or ml_collections about the command line as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, OSError):  # several lines about a config file, with the reason in the last
        return f"config file: {lines[-1]}"
    if any(line.startswith("Traceback") for line in lines):  # get_config() raised it
        return f"{lines[0]} {lines[-1].removeprefix('ValueError: ')}"
    if isinstance(error, TypeError):  # --config.seed.x=1
        return "unknown config key: a --config.KEY goes into a value that has no keys"
    if isinstance(error, AttributeError | KeyError):
        name = " ".join(_unquoted(error.args[0]).split())
        if not name.isidentifier():  # ml_collections' message has more
            return f"unknown config key: {name}"
        # The message has the last part of the key alone.
        keys = (re.match(rf"--?(config\.(?:\w+\.)*{name})\.", argument) for argument in sys.argv)
        key = next((found[1] for found in keys if found), f"config.{name}")
        fix = f"fix: correct the name, or set all of it: --{key}=\"{{'KEY': VALUE}}\""
        return f"unknown config key: {key}: no group of the file; {fix}"
    missing = [re.fullmatch(r"flag (--\w+)=None: .* other than None\.", line) for line in lines]
    if all(missing):
        return "a flag is missing: " + ", ".join(found[1] for found in missing if found)
    return _one_line(error) or lines[0]


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
    logging.getLogger("huggingface_hub").propagate = False  # it prints by itself
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)
    _quiet_libtpu()
    if not sys.stderr.isatty():  # a bar of carriage returns is for terminals
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _quiet_libtpu() -> None:
    """Keeps a libtpu that is installed for planning from looking for TPUs, which it says at length."""
    requested = "JAX_FORCE_TPU_INIT" in os.environ or "tpu" in os.environ.get("JAX_PLATFORMS", "")
    if requested or importlib.util.find_spec("libtpu") is None:
        return
    if _GOOGLE not in (path.read_text().strip() for path in _DEVICES.glob("*/vendor")):  # as JAX decides
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _leave(code: int, line: str) -> NoReturn:
    sys.stdout.flush()
    print(as_started(line), file=sys.stderr, flush=True)
    sys.exit(code)
