"""The commands of the package: `softbio-jax train --config=...` runs scripts/train.py.

A wheel carries scripts/, configs/ and assets/ of the repository inside of the package, so both ways
of starting a command run the same file.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import softbio_jax
from softbio_jax import command
from softbio_jax.console import COMMANDS, start_as
from softbio_jax.errors import UserError, nearest
from softbio_jax.ranges import Documented, described, documented, hints

_SHELLS = ("bash", "fish", "zsh")
_WIDTH = 100
_WRITTEN = {"config": "lora"}  # a method's parameter -> the key that a configuration sets
# What a run passes to its sampler, and a balancer's fields that are keys of their own.
_PASSED = ("datasets", "seed", "clamp", "momentum", "weights")
_USAGE = f"""softbio-jax COMMAND [--flag=value ...]

{{commands}}

softbio-jax COMMAND --help      the flags of a command
softbio-jax config [KEY ...]    explains the keys of --config; "method" lists the methods
softbio-jax completion SHELL    prints the completion for {", ".join(_SHELLS)}
softbio-jax --version
"""


def main() -> None:
    """Runs the command that the first argument names; without one, lists the commands."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        width = max(map(len, COMMANDS))
        rows = (f"  {name:<{width}}  {_summary(name)}" for name in COMMANDS)
        print(_USAGE.format(commands="\n".join(rows)), end="")
    elif name == "--version":
        print(f"softbio-jax {softbio_jax.__version__}")
    elif name == "completion":
        print(_completion(arguments[0] if arguments else ""), end="")
    elif name == "config":
        _explain(arguments)
    elif name in COMMANDS:
        script = command.script_of(name)
        start_as(f"softbio-jax {name}")
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
    else:
        known = [*COMMANDS, "completion", "config"]
        raise UserError(
            "no such command",
            where="softbio-jax",
            expected=", ".join(known),
            found=repr(name),
            fix=nearest(name, known, otherwise="softbio-jax --help"),
        )


def entry() -> None:
    """Runs `main`; a mistake is one line on stderr and exit code 2, a closed pipe (`| head`) silent."""
    try:
        main()
        sys.stdout.flush()  # here, since Python complains about a closed pipe at exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(command.EXIT_BROKEN_PIPE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _completion(shell: str) -> str:
    """Returns the completion of commands, flags and configurations for a shell."""
    if shell not in _SHELLS:
        raise UserError(
            "no completion",
            where="softbio-jax completion",
            expected=" or ".join(_SHELLS),
            found=repr(shell),
            fix="softbio-jax completion bash",
        )
    names = [*COMMANDS, "config"]
    if shell == "fish":
        lines = [f'complete -c softbio-jax -f -n __fish_use_subcommand -a "{" ".join(names)}"']
        lines += [
            f"complete -c softbio-jax -n '__fish_seen_subcommand_from {name}' -l {flag.strip('-=')}"
            for name in COMMANDS
            for flag in _flags(name)
        ]
        return "\n".join(lines) + "\n"
    cases = "\n".join(f'    {name}) words="{" ".join(_words(name))}" ;;' for name in COMMANDS)
    return (
        ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "")
        + f"""_softbio_jax() {{
  local words="" word="${{COMP_LINE:0:COMP_POINT}}"
  word="${{word##* }}"
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  ((COMP_CWORD > 1)) || words="{" ".join(names)}"
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  # The shell divides words at "=": what stands before it must not be repeated.
  [[ $word != *=* ]] || COMPREPLY=("${{COMPREPLY[@]#"${{word%%=*}}="}}")
  [[ ${{COMPREPLY[*]}} != *= ]] || compopt -o nospace 2>/dev/null
}}
complete -o default -F _softbio_jax softbio-jax
"""
    )


def _words(name: str) -> list[str]:
    flags = _flags(name)
    configs = command.configurations() if "--config=" in flags else []
    return [*flags, *(f"--config=configs/{path.name}" for path in configs)]


def _flags(name: str) -> list[str]:
    """Returns the flags that a script defines, with "=" where one takes a value."""
    found = []
    for node in ast.walk(ast.parse(command.script_of(name).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind, first = node.func.attr, node.args[0] if node.args else None
            if kind.startswith("DEFINE_") and isinstance(first, ast.Constant):
                found.append(f"--{first.value!s}" + ("" if kind == "DEFINE_bool" else "="))
            elif kind == command.define_processes.__name__:
                found += ["--multihost", *(f"--{name}=" for name in command.Processes._fields[1:])]
    return [*found, "--help", "--debug", "--plugin="]


def _summary(name: str) -> str:
    return command.summary_of(command.script_of(name))


def _explain(keys: Sequence[str]) -> None:
    """Prints the meaning, values and default of keys and groups of keys; without one, of all keys."""
    from softbio_jax.runs.config import RunConfig

    fields = {field.name: field for field in documented(RunConfig)}
    for key in [name.removeprefix("--").removeprefix("config.") for name in keys] or [""]:
        found = [field for name, field in fields.items() if not key or f"{name}.".startswith(f"{key}.")]
        if not found:
            known = [*fields, *{name.rpartition(".")[0] for name in fields if "." in name}]
            raise UserError(
                "unknown config key",
                where=key,
                expected="a key or a group of keys",
                found=key,
                fix=nearest(key, known, otherwise="softbio-jax config lists them"),
            )
        if len(found) > 1:
            print("\n".join(map(_line, found)))
        else:
            print("\n".join(_whole(found[0])))


def _line(field: Documented) -> str:
    default = f" = {field.default}" if field.default else ""
    return f"{field.name}{default}\n" + _indented(field.meaning)


def _whole(field: Documented) -> Iterator[str]:
    yield field.name
    yield _indented(field.meaning)
    yield _indented(f"values: {field.values}")
    yield _indented(
        f"default: {field.default}" if field.default else "no default: every configuration sets it"
    )
    key = f"{field.name}.KEY" if field.values == "a mapping" else field.name
    yield _indented(f"set by: --config.{key}=VALUE")
    for name, build in _registered(field.name).items():
        yield f"\n{name}: {(inspect.getdoc(build) or '').partition(chr(10))[0]}"
        yield from map(_indented, _arguments(build))


def _registered(key: str) -> Mapping[str, Callable[..., Any]]:
    """Returns what a key chooses from by name, the plugins' included."""
    from softbio_jax.adapters.methods import METHODS
    from softbio_jax.data.sampling import SAMPLERS
    from softbio_jax.losses.balancing import BALANCERS

    choices: dict[str, Mapping[str, Callable[..., Any]]] = {
        "method": METHODS,
        "data.sampler": SAMPLERS,
        "balancing.kind": BALANCERS,
    }
    return choices.get(key, {})


def _arguments(build: Callable[..., Any]) -> Iterator[str]:
    """Yields the arguments that a configuration sets, in one line each."""
    types = hints(build)
    for name, parameter in inspect.signature(build).parameters.items():
        if name in _PASSED:
            continue
        if dataclasses.is_dataclass(types[name]):
            for field in documented(types[name], f"{_WRITTEN.get(name, name)}."):
                yield _argument(field.name, field.default, field.values, field.meaning)
        else:
            default = "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
            yield _argument(name, default, described(types[name]))


def _argument(name: str, default: str, *details: str) -> str:
    return "; ".join(filter(None, (f"{name}: {default or 'required'}", *details)))


def _indented(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


if __name__ == "__main__":
    entry()
