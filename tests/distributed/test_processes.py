"""Two processes over gloo and one process are the same run; each process is a subprocess."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 20
CHANGES = {
    "train__steps": STEPS,
    "train__log_every": 1,
    "train__eval_every": 10,
    "train__checkpoint_every": 10,
    "train__keep": 9,
    "train__evaluate": "last",
    "compute": {"matmul_precision": "highest"},
}


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _train(data_root, workdir, out, *, processes=1, devices=1):
    """Runs a run to its end and returns what each process saw."""
    coordinator = f"127.0.0.1:{_free_port()}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    started = []
    for process in range(processes):
        arguments = {
            "data": str(data_root),
            "workdir": str(workdir),
            "changes": CHANGES,
            "out": f"{out}.{process}.json",
        }
        if processes > 1:
            arguments |= {"coordinator": coordinator, "process_id": process, "processes": processes}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worker", json.dumps(arguments)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=900)[0] for process in started]
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return [json.loads(pathlib.Path(f"{out}.{p}.json").read_text()) for p in range(processes)]


def _losses(seen):
    return np.array([step["loss"] for step in seen])


@pytest.fixture(scope="module")
def one(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return _train(data_root, folder / "run", folder / "seen"), folder / "run"


@pytest.fixture(scope="module")
def two(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return _train(data_root, folder / "run", folder / "seen", processes=2), folder / "run"


@pytest.mark.long
def test_two_processes_see_the_samples_of_one(one, two):
    (whole,), (left, right) = one[0], two[0]
    assert len(whole) == len(left) == len(right) == STEPS
    for step, a, b in zip(whole, left, right, strict=True):
        assert step["index"] == a["index"] + b["index"]
        assert step["image"] == a["image"] + b["image"]


@pytest.mark.long
def test_two_processes_have_the_losses_of_one(one, two):
    (whole,), (left, right) = one[0], two[0]
    assert _losses(left).tolist() == _losses(right).tolist()
    np.testing.assert_allclose(_losses(left), _losses(whole), rtol=1e-6, atol=1e-6)


def _resume_at_10(run, folder):
    """Copies a run as it was after its checkpoint of step 10."""
    import shutil

    copy = folder / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "20")
    return copy


@pytest.mark.long
@pytest.mark.parametrize(
    ("saved", "layout"), [("one", {"devices": 8}), ("one", {"processes": 2}), ("two", {"devices": 1})]
)
def test_what_one_layout_saves_another_goes_on_from(request, data_root, one, tmp_path, saved, layout):
    _, run = request.getfixturevalue(saved)
    seen = _train(data_root, _resume_at_10(run, tmp_path), tmp_path / "seen", **layout)
    (whole,) = one[0]
    order = [np.concatenate([s["index"] for s in steps]) for steps in zip(*seen, strict=True)]
    np.testing.assert_array_equal(order, [step["index"] for step in whole[10:]])
    np.testing.assert_allclose(_losses(seen[0]), _losses(whole)[10:], rtol=1e-6, atol=1e-6)
