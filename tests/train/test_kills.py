"""Runs of scripts/train.py that are killed, in whatever they are doing, and started again."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED
from tests.train.tiny import changed, config_on

pytestmark = pytest.mark.long
ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, INTERVAL = 60, 5
SIGKILLS = 6  # more with SOFTBIO_KILLS, such as 20
KILLS = int(os.environ.get("SOFTBIO_KILLS", SIGKILLS))


@pytest.fixture(scope="module")
def config_file(data_root, tmp_path_factory):
    config = changed(
        config_on(data_root), train__steps=STEPS, train__log_every=2, train__eval_every=20,
        train__checkpoint_every=INTERVAL, train__evaluate="last",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(f"import ml_collections\n\n\ndef get_config():\n    return "
                    f"ml_collections.ConfigDict({config!r})\n")  # fmt: skip
    return path


def _start(config_file, workdir):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "scripts/train.py", f"--config={config_file}", f"--workdir={workdir}"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _finish(config_file, workdir):
    process = _start(config_file, workdir)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    return output


def _wait_for(process, text):
    """Reads a run's output until a line holds text."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail(f"no {text!r} in: {''.join(lines)} {process.stderr.read()[-2000:]}")


def _result(workdir):
    """Everything a run is told apart by: every array's digest, the stream, the figures."""
    final = json.loads((workdir / "checkpoints" / str(STEPS) / "manifest.json").read_text())
    texts = [(workdir / name).read_text() for name in ("metrics.jsonl", "eval/metrics.json")]
    return final["leaves"], final["host"], texts


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    _finish(config_file, workdir)
    return _result(workdir)


@pytest.mark.parametrize("seed", range(KILLS))
def test_sigkill_at_any_moment_changes_nothing(config_file, unbroken, tmp_path, seed):
    process = _start(config_file, tmp_path)
    draw = random.Random(seed)
    if seed % 3 == 0:  # in the start or the compilation
        _wait_for(process, "trainable")
        time.sleep(draw.uniform(0, 4))
    elif seed % 3 == 1:  # in a step, a save or the renaming at its end
        _wait_for(process, f"step {draw.randrange(2, 50, 2)}/")
        time.sleep(draw.uniform(0, 0.3))
    else:  # in a validation, or the evaluation at the end
        _wait_for(process, f"step {draw.choice((20, 40, 60))}/")
        time.sleep(draw.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _finish(config_file, tmp_path)
    assert _result(tmp_path) == unbroken


@pytest.mark.parametrize("moment", ["trainable", "compiled", f"step {INTERVAL * 4}/", "step 34/",
                                    f"step {STEPS}/"])  # fmt: skip
def test_sigterm_keeps_what_was_done(config_file, unbroken, tmp_path, moment):
    process = _start(config_file, tmp_path)
    _wait_for(process, moment)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - sent < 30
    assert process.returncode in (0, EXIT_SAVED, EXIT_FELL_BACK), errors[-4000:]
    if process.returncode == EXIT_SAVED and moment.startswith("step"):
        step = int(moment.split()[1].rstrip("/"))
        steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()]
        assert max(steps) >= step
    _finish(config_file, tmp_path)
    assert _result(tmp_path) == unbroken
