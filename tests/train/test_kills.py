"""Runs of scripts/train.py that are killed, in whatever they are doing, and started again.

`pytest -m long -rP tests/train/test_kills.py` shows what each signal hit and what it cost.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED
from tests.runs.tiny import changed, config_on

pytestmark = pytest.mark.long
ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, INTERVAL, VALIDATIONS = 60, 5, 20
TIMES = int(os.environ.get("SOFTBIO_KILLS", "20"))  # that each signal is sent


@pytest.fixture(scope="module")
def config_file(data_root, tmp_path_factory):
    config = changed(
        config_on(data_root),
        train__steps=STEPS,
        train__log_every=2,
        train__eval_every=VALIDATIONS,
        train__checkpoint_every=INTERVAL,
        train__evaluate="last",
    )
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
    )
    return path


def _start(config_file, workdir, *, command=("scripts/train.py",), **environment):
    return subprocess.Popen(
        [sys.executable, *command, f"--config={config_file}", f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
    )


def _finish(config_file, workdir):
    process = _start(config_file, workdir)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    return output


def _wait_for(process, text):
    """Reads a run's output until a line holds text; returns what was read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail(f"no {text!r} in: {''.join(lines)} {process.stderr.read()[-2000:]}")


def _wait_until(process, happened):
    """Looks as often as it can until something is on the disk."""
    while not happened():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.0005)


def _compile(process, workdir, draw):
    output = _wait_for(process, "trainable")
    time.sleep(draw.uniform(0, 5))
    return output


def _step(process, workdir, draw):
    output = _wait_for(process, f"step {draw.randrange(2, 56, 2)}/")
    time.sleep(draw.uniform(0, 0.3))
    return output


def _save(process, workdir, draw):
    """Between the making of a checkpoint's folder and its commit."""
    step = draw.randrange(INTERVAL, STEPS, INTERVAL)
    output = _wait_for(process, f"step {step // 2 * 2 - 2}/") if step > INTERVAL else ""
    _wait_until(process, (workdir / "checkpoints" / str(step)).exists)
    time.sleep(draw.uniform(0, 0.05))
    return output


def _rename(process, workdir, draw):
    """Where Orbax names what it wrote, or the manifest gets its name."""
    step = draw.randrange(INTERVAL, STEPS, INTERVAL)
    folder = workdir / "checkpoints" / str(step)
    names = draw.choice([("state",), ("manifest.json.tmp", "manifest.json")])
    _wait_until(process, lambda: any((folder / name).exists() for name in names))
    return ""


def _evaluation(process, workdir, draw):
    """In a validation, or in the evaluation at the end."""
    output = _wait_for(process, f"step {draw.randrange(VALIDATIONS, STEPS + 1, VALIDATIONS)}/")
    time.sleep(draw.uniform(0, 0.3))
    return output


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


def _send(signal_sent, moment, config_file, tmp_path, seed):
    """Starts a run and sends it a signal.

    Returns:
      The process, what it said, how long it took to leave.
    """
    # Nothing is compiled yet where the compilation is to be hit.
    fresh = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")} if moment is _compile else {}
    process = _start(config_file, tmp_path / "run", **fresh)
    before = moment(process, tmp_path / "run", random.Random(seed))
    process.send_signal(signal_sent)
    sent = time.monotonic()
    output, errors = process.communicate(timeout=120)
    return process, before + output + errors, time.monotonic() - sent


def _newest(workdir):
    """The newest step with a whole checkpoint."""
    steps = [0]
    with contextlib.suppress(FileNotFoundError):
        for path in (workdir / "checkpoints").iterdir():
            if path.name.isdecimal() and (path / "manifest.json").exists():
                steps.append(int(path.name))
    return max(steps)


def _told(said):
    """The last step that a run's output tells of."""
    return max([0, *(int(step) for step in re.findall(r"^step (\d+)/", said, re.MULTILINE))])


MOMENTS = (_compile, _step, _save, _rename, _evaluation)


@pytest.mark.parametrize("seed", range(TIMES))
def test_sigkill_at_any_moment_changes_nothing(config_file, unbroken, tmp_path, seed):
    moment = MOMENTS[seed % len(MOMENTS)]
    process, said, _ = _send(signal.SIGKILL, moment, config_file, tmp_path, seed)
    newest = _newest(tmp_path / "run")
    print(
        f"RESULT SIGKILL {moment.__name__} seed {seed}: exit {process.returncode}, "
        f"step {_told(said)} told, {newest} kept"
    )
    assert process.returncode == -signal.SIGKILL
    _finish(config_file, tmp_path / "run")
    assert _result(tmp_path / "run") == unbroken


SIGTERM_MOMENTS = (_compile, _step, _save, _evaluation)


@pytest.mark.parametrize("seed", range(TIMES))
def test_sigterm_keeps_what_was_done_or_at_most_an_interval_is_done_again(
    config_file, unbroken, tmp_path, seed
):
    moment = SIGTERM_MOMENTS[seed % len(SIGTERM_MOMENTS)]
    process, said, seconds = _send(signal.SIGTERM, moment, config_file, tmp_path, seed)
    newest, code = _newest(tmp_path / "run"), process.returncode
    print(
        f"RESULT SIGTERM {moment.__name__} seed {seed}: exit {code} after {seconds:.1f} s, "
        f"step {_told(said)} told, {newest} kept"
    )
    assert code in (0, EXIT_SAVED, EXIT_FELL_BACK), said[-4000:]
    assert seconds < 30
    lost = 0 if code in (0, EXIT_SAVED) else INTERVAL
    assert newest >= _told(said) - lost
    _finish(config_file, tmp_path / "run")
    assert _result(tmp_path / "run") == unbroken


# A disk that needs longer for a checkpoint than the grace lasts.
SLOW_DISK = """
import runpy, sys, time
from softbio_jax.checkpoints import manifest
from softbio_jax.train.preemption import Preemption

write, Preemption.__init__.__kwdefaults__["grace"] = manifest.write, 2.0
manifest.write = lambda *args: (time.sleep(3.0), write(*args))
sys.argv = ["scripts/train.py", *sys.argv[1:]]
runpy.run_path("scripts/train.py", run_name="__main__")
"""


@pytest.mark.parametrize("told", [8, 14, 24])
def test_where_saving_outlasts_the_grace_an_interval_is_lost_at_most(config_file, unbroken, tmp_path, told):
    process = _start(config_file, tmp_path / "run", command=("-c", SLOW_DISK))
    said = _wait_for(process, f"step {told}/")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    newest, last = _newest(tmp_path / "run"), _told(said + output)
    print(f"RESULT SIGTERM slow disk: exit {process.returncode}, step {last} told, {newest} kept")
    assert process.returncode == EXIT_FELL_BACK, errors[-4000:]
    assert "falls back to the last checkpoint" in errors
    assert last - INTERVAL <= newest < last
    _finish(config_file, tmp_path / "run")
    assert _result(tmp_path / "run") == unbroken
