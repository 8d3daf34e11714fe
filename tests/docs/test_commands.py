"""Every command of every page: its script, its flags and its configuration keys exist."""

import ast
import functools
import re
import runpy
import shlex

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, commands, inline_commands
from tests.structure import imported_names

_ABSL = {"debug", "help", "helpfull", "helpshort", "verbosity", "v"}
_DEFINES = re.compile(r"DEFINE_(\w+)")


@functools.cache
def flags_of(script):
    """Returns flag name -> (kind, values of an enum or None), read from the script's text."""
    found = {}
    folders = {name.partition(".")[0] for name in imported_names(ROOT / script)}
    beside = [path for folder in folders for path in (ROOT / "scripts" / folder).glob("*.py")]
    for path in (ROOT / script, ROOT / "softbio_jax" / "command.py", *beside):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            kind = _DEFINES.fullmatch(node.func.attr)
            if kind and node.args and isinstance(node.args[0], ast.Constant):
                values = node.args[2] if kind[1] == "enum" and len(node.args) > 2 else None
                literal = isinstance(values, ast.List) and all(
                    isinstance(item, ast.Constant) for item in values.elts
                )
                found[node.args[0].value] = (
                    kind[1],
                    [item.value for item in values.elts] if literal else None,
                )
    return found


def mistakes(command, *, configs=True):
    """Returns the errors of a command line: unknown flags, values, configuration keys."""
    command = re.sub(r"\[[^\]]*\]", "", command)  # optional parts of a form
    script, *arguments = shlex.split(command)
    if not (ROOT / script).is_file():
        return [f"no {script}"]
    known = flags_of(script)
    wrong, config = [], None
    for place, argument in enumerate(arguments):
        if argument in ("|", ">", "<", "&&", ";", "-"):
            break
        match = re.fullmatch(r"--([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            if argument.startswith("--"):
                wrong.append(f"not a flag: {argument}")
            continue
        name, value = match[1], match[2]
        if name.startswith("config.") and "config" in known:
            if not any(word.startswith("--config=") for word in arguments[:place]):
                wrong.append(f"--{name} in front of --config")
            if config is not None and not has_key(config, name.removeprefix("config.")):
                wrong.append(f"no key {name} in the config")
            continue
        kind, values = known.get(name) or known.get(name.removeprefix("no")) or ("", None)
        if not kind and name not in _ABSL:
            wrong.append(f"{script} has no --{name}")
        elif values and value is not None and value.isidentifier() and value not in values:
            wrong.append(f"--{name} is one of {values}, not {value}")
        elif configs and name == "config" and value and (ROOT / value.partition(":")[0]).is_file():
            config = read_config(*value.split(":", 1))
    return wrong


def read_config(file, argument=None):
    make = runpy.run_path(str(ROOT / file))["get_config"]
    return make(argument) if argument else make()


def has_key(config, dotted):
    for name in dotted.split("."):
        if name not in config:
            return False
        config = config[name]
    return True


def all_commands():
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for line, command, why in commands(page):
            yield pytest.param(name, command, why, id=f"{name}:{line}:{command[:40]}")


@pytest.mark.parametrize(("page", "command", "why"), list(all_commands()))
def test_the_flags_of_a_command_exist(page, command, why):
    # A page that changes code changes the configuration keys; test_pages runs it.
    changes = any(block.language == "diff" for block in blocks(ROOT / page))
    assert mistakes(command, configs=not changes) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_flags_of_commands_in_sentences_exist(page):
    for command in inline_commands(page):
        assert mistakes(command) == [], command


def test_a_wrong_command_is_detected():
    assert mistakes("scripts/train.py --confg=x") == ["scripts/train.py has no --confg"]
    assert mistakes("scripts/trian.py") == ["no scripts/trian.py"]
    assert mistakes("scripts/train.py --config=configs/demo.py --config.train.step=1") == [
        "no key config.train.step in the config"
    ]
    assert "one of" in mistakes("scripts/prepare_data.py --encoding=jpg")[0]
    assert mistakes("scripts/train.py --config=configs/demo.py --config.train.steps=1 -") == []
