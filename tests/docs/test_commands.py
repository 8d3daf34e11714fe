"""Every command of every page: the script and its flags exist; it runs, or it is said why not."""

import ast
import functools
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, commands, inline_commands
from tests.docs.test_pages import PAGES as FOLLOWED

# Why a command of a page that test_pages does not follow is not run; the first that matches.
NOT_RUN = (
    (r"--multihost|--coordinator", "several processes: tests/distributed starts them"),
    (r"--topology=\w", "the TPU compiler: tests/planning where libtpu is installed"),
    (r"--dataset=(?!synthetic)", "other people's pictures: tests/data prepares small trees"),
    (r"FairFace|--data=data/|real_faces", "other people's pictures: tests/data, tests/train"),
    (r"PE-[CLS]\w+-|facebook/|timm/|hub id|--checkpoint", "weights: tests/interop draws them"),
    (r"thesis\.py|mtlora", "a tower too large for a test: tests/test_thesis_config.py"),
    (r"RUN|DIR|=\.\.\.|\bDATA\b|WORKDIR|HUB|INPUT|=x\b", "a form, not a command"),
    (r"\bruns/|--model=|exports/", "a run of the reader's: the script's own tests make one"),
    (r"demo_app|benchmark|sweep|torch_reference", "minutes, or a server: the script's own tests"),
    (r"demo\.py|pretrain_tiny", "make demo: minutes"),
)
_ABSL = {"debug", "help", "helpfull", "helpshort", "verbosity", "v"}
_DEFINES = re.compile(r"DEFINE_(\w+)")


@functools.cache
def flags_of(script):
    """Flag name -> (kind, the values of an enum or None), read from the script's text."""
    found = {}
    for path in (ROOT / script, ROOT / "softbio_jax" / "command.py"):
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
                    kind[1], [item.value for item in values.elts] if literal else None
                )  # fmt: skip
    return found


def mistakes(command, *, configs=True):
    """What is wrong with a command line: unknown flags, values, config keys."""
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
    # A page that changes code changes what a config takes; test_pages runs it.
    changes = any(block.language == "diff" for block in blocks(ROOT / page))
    assert mistakes(command, configs=not changes) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_flags_of_commands_in_sentences_exist(page):
    for command in inline_commands(page):
        assert mistakes(command) == [], command


def test_a_wrong_command_is_seen():
    assert mistakes("scripts/train.py --confg=x") == ["scripts/train.py has no --confg"]
    assert mistakes("scripts/trian.py") == ["no scripts/trian.py"]
    assert mistakes("scripts/train.py --config=configs/demo.py --config.train.step=1") == [
        "no key config.train.step in the config"
    ]
    assert "one of" in mistakes("scripts/prepare_data.py --encoding=jpg")[0]
    assert mistakes("scripts/train.py --config=configs/demo.py --config.train.steps=1 -") == []


def to_run():
    for parameter in all_commands():
        page, command, why = parameter.values
        followed = page.removeprefix("docs/").removesuffix(".md") in FOLLOWED
        if not (followed or why or any(re.search(pattern, command) for pattern, _ in NOT_RUN)):
            yield parameter


@pytest.mark.long
@pytest.mark.parametrize(("page", "command", "why"), list(to_run()))
def test_commands_of_other_pages_run(page, command, why, tmp_path):
    command = re.sub(r"--out=\S+", f"--out={tmp_path}/out", command)
    done = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
