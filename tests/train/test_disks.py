"""Disks that are really full or really read-only: a tmpfs of the test's own."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.errors import UserError
from tests.runs.tiny import changed, config_on

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    except FileNotFoundError:
        pytest.skip("no mount command on this machine")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk, *, leave):
    """Fills a disk but for some bytes; returns the file that does."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
    return ballast


def _content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _state(step):
    return {"kernel": jax.random.normal(jax.random.key(step), (256, 256))}


def _manager(folder):
    return CheckpointManager(folder / "run", keep=2, base="0" * 64)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_checkpoint_on_a_full_disk_is_one_line_and_the_one_before_stays(disk, caplog, depth):
    folder = disk.joinpath(*["x" * 200] * depth)  # a message has the path, more than once
    manager = _manager(folder)
    manager.save(1, _state(1), {})
    manager.wait()
    before = _content(folder / "run" / "checkpoints" / "1")
    ballast = _fill(disk, leave=100_000)
    with pytest.raises(UserError, match="cannot be written") as caught:
        manager.save(2, _state(2), {})
        manager.wait()
    assert "\n" not in str(caught.value)
    assert "found No space left on device; fix: check space" in str(caught.value)
    assert caplog.text.count("Traceback") == 0
    assert _content(folder / "run" / "checkpoints" / "1") == before
    restored = _manager(folder).restore_newest(_state(0))
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["kernel"], _state(1)["kernel"])
    ballast.unlink()
    manager.save(2, _state(2), {})
    manager.close()
    assert _manager(folder).restore_newest(_state(0)).step == 2


def _train(tmp_path, config, workdir):
    path = tmp_path / "tiny.py"
    path.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
    )
    return subprocess.run(
        [sys.executable, "scripts/train.py", f"--config={path}", f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


def _assert_one_line(done, *told):
    assert done.returncode == 1, done.stderr[-4000:]
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for text in told:
        assert text in done.stderr


@pytest.mark.long
def test_a_run_goes_on_once_there_is_space_again(data_root, disk, tmp_path):
    config = changed(config_on(data_root), train__evaluate="last")
    whole = tmp_path / "whole"
    assert _train(tmp_path, config, whole).returncode == 0
    ballast = _fill(disk, leave=650_000)
    _assert_one_line(_train(tmp_path, config, disk / "run"), "No space left on device")
    ballast.unlink()
    # What is kept of a run of the tiny model is larger than this disk.
    assert _mount("-o", "remount,size=64m", str(disk)).returncode == 0
    done = _train(tmp_path, config, disk / "run")
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("metrics.jsonl", "eval/metrics.json"):
        assert (disk / "run" / name).read_text() == (whole / name).read_text()


@pytest.mark.long
def test_a_read_only_disk_is_one_line_and_stays_as_it_was(data_root, disk, tmp_path):
    assert _mount("-o", "remount,size=64m", str(disk)).returncode == 0
    config = changed(config_on(data_root), train__steps=4)
    done = _train(tmp_path, config, disk / "run")
    assert done.returncode == 0, done.stderr[-4000:]
    before = _content(disk)
    assert _mount("-o", "remount,ro", str(disk)).returncode == 0
    _assert_one_line(_train(tmp_path, config, disk / "run"), "Read-only file system")
    _assert_one_line(_train(tmp_path, config, disk / "new"), "Read-only file system")
    assert _content(disk) == before
