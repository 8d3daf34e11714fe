"""A flag that a command's mode would ignore, or a word that is no flag, is one line and nothing is done."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.structure import ROOT

# (script, the flags that choose the mode, the flags that it would ignore)
CASES = [
    (
        "evaluate",
        ["--workdir=x"],
        [
            *("--checkpoint=a", "--variant=b", "--prompts=d", "--not_averaged=a:age"),
            *("--synthetic_labels=a:age", "--tokenizer=t", "--batch_size=3"),
        ],
    ),
    ("evaluate", ["--workdir=x", "--zero_shot"], ["--latency", "--nolatency"]),
    ("predict", ["--model=m", "--faces=crop", "a.jpg"], ["--margin=0.1", "--track"]),
    ("predict", ["--model=m", "a.mp4"], ["--half_life=2", "--gap=2"]),
    ("predict", ["--model=m", "--track", "--out=x", "a.mp4"], ["--shards=2"]),
    (
        "export",
        ["--model=m", "--out=x", "--format=onnx"],
        [
            *("--data=d", "--images=3", "--keys=timm", "--task=age", "--batch=2"),
            *("--calibrate=d", "--tolerance=0.1", "--calibration_images=9"),
        ],
    ),
    (
        "export",
        ["--model=m", "--out=x", "--format=stablehlo"],
        ["--calibrate=d", "--tolerance=0.1", "--calibration_images=9", "--batch=2"],
    ),
    ("export", ["--model=m", "--out=x", "--format=peft"], ["--int8"]),
    ("export", ["--model=m", "--out=x", "--compare=a"], ["--int8", "--keys=timm", "--task=age"]),
    ("plan", ["--config=configs/demo.py"], ["--remat=none", "--rows=1", "--granularity=2"]),
    ("plan", ["--config=configs/demo.py", "--table"], ["--noways_out"]),
    ("plan", ["--config=configs/demo.py", "--table", "--rows=1"], ["--granularity=2"]),
    (
        "train",
        ["--config=configs/demo.py", "--workdir=x"],
        ["--coordinator=a:1", "--process_id=0", "--processes=2"],
    ),
    ("composite", ["--margins"], ["--val_fraction=0.1"]),
    (
        "small_reproduction",
        ["--report=x"],
        ["--jobs=2", "--workdir=x", "--config=configs/small_reproduction.py"],
    ),
    ("small_reproduction", ["--workdir=x", "--config=configs/small_reproduction.py"], ["--page=p"]),
    ("parity", ["--reference=goldens"], ["--checkout=x"]),
    ("parity", ["--reference=timm"], ["--goldens=x"]),
    ("parity", ["--reference=timm", "--checkpoint=c"], ["--seed=3"]),
    ("prepare_data", ["--dataset=folder", "--source=a", "--out=x", "--encoding=png"], ["--quality=80"]),
]
LINES = [(script, [*mode, flag], flag) for script, mode, ignored in CASES for flag in ignored]
WORDS = [
    ("evaluate", ["--workdir=x", "--latency", "False"], "False"),
    ("train", ["--config=configs/demo.py", "--workdir=x", "runs/x"], "runs/x"),
    ("sweep", ["--config=configs/demo.py", "--workdir=x", "1e-3"], "1e-3"),
    ("export", ["--model=m", "--out=x", "--format=onnx", "--int8", "true"], "true"),
    ("audit_data", ["--out=x", "--data=a", "b"], "b"),
]
# Children of one process, which has imported what all scripts import.
RUN = """
import json, os, runpy, sys
from absl import app, flags
from ml_collections import config_flags
from softbio_jax import command
sys.path.insert(0, "scripts")
for script, arguments in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1), os.dup2(writer, 2)
        sys.argv = [f"scripts/{script}.py", *arguments]
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.wait()[1]), text]), flush=True)
"""


@pytest.fixture(scope="module")
def answers():
    """(script, arguments) -> exit code and everything printed, of all cases."""
    cases = [(script, arguments) for script, arguments, _ in (*LINES, *WORDS)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), json.dumps(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return {json.dumps(case): answer for case, answer in zip(cases, found, strict=True)}


@pytest.mark.parametrize(
    ("script", "arguments", "flag"), LINES, ids=[f"{s} {' '.join(a)}" for s, a, _ in LINES]
)
def test_an_ignored_flag_is_refused(script, arguments, flag, answers):
    code, text = answers[json.dumps((script, arguments))]
    name = (
        flag.partition("=")[0].replace("--no", "--")
        if flag in ("--nolatency", "--noways_out")
        else flag.partition("=")[0]
    )
    assert code == 1 and text.count("\n") == 1, text
    assert text.startswith(f"error: a flag does not apply: {name}: ") and f"omit {name}" in text


@pytest.mark.parametrize(
    ("script", "arguments", "word"), WORDS, ids=[f"{s} {' '.join(a)}" for s, a, _ in WORDS]
)
def test_a_word_that_is_no_flag_is_refused(script, arguments, word, answers):
    code, text = answers[json.dumps((script, arguments))]
    assert code == 2 and text.count("\n") == 1 and text.startswith(f"error: {word!r} "), text
