"""The commands of the package: `softbio-jax train --config=...` runs scripts/train.py.

A wheel carries scripts/, configs/ and assets/ of the repository inside of the package, so both ways
of starting a command run the same file.
"""

from __future__ import annotations

import ast
import pathlib
import runpy
import sys

import softbio_jax
from softbio_jax import command
from softbio_jax.console import COMMANDS, start_as
from softbio_jax.errors import UserError, nearest

_SHELLS = ("bash", "fish", "zsh")
_USAGE = f"""softbio-jax COMMAND [--flag=value ...]

{{commands}}

softbio-jax COMMAND --help      the flags of a command
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
    elif name in COMMANDS:
        script = command.script_of(name)
        start_as(f"softbio-jax {name}")
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
    else:
        known = [*COMMANDS, "completion"]
        raise UserError(
            "no such command",
            where="softbio-jax",
            expected=", ".join(known),
            found=repr(name),
            fix=nearest(name, known, otherwise="softbio-jax --help"),
        )


def entry() -> None:
    """Runs `main`; a mistake is one line on stderr and exit code 2."""
    try:
        main()
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
    names = list(COMMANDS)
    if shell == "fish":
        lines = [f'complete -c softbio-jax -f -n __fish_use_subcommand -a "{" ".join(names)}"']
        lines += [
            f"complete -c softbio-jax -n '__fish_seen_subcommand_from {name}' -l {flag.strip('-=')}"
            for name in names
            for flag in _flags(name)
        ]
        return "\n".join(lines) + "\n"
    cases = "\n".join(f'    {name}) words="{" ".join(_words(name))}" ;;' for name in names)
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
    configs = sorted((command.SHIPPED / "configs").glob("*.py")) if "--config=" in flags else []
    return [*flags, *(f"--config=configs/{path.name}" for path in configs)]


def _flags(name: str) -> list[str]:
    """Returns the flags that a script defines, with "=" where one takes a value."""
    found = []
    for node in ast.walk(_tree(command.script_of(name))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind, first = node.func.attr, node.args[0] if node.args else None
            if kind.startswith("DEFINE_") and isinstance(first, ast.Constant):
                found.append(f"--{first.value!s}" + ("" if kind == "DEFINE_bool" else "="))
    return [*found, "--help", "--debug", "--plugin="]


def _summary(name: str) -> str:
    return (ast.get_docstring(_tree(command.script_of(name))) or "").partition("\n")[0]


def _tree(script: pathlib.Path) -> ast.Module:
    return ast.parse(script.read_text())


if __name__ == "__main__":
    entry()
