"""A damaged checkpoint is skipped in one line, or the damage changed nothing: never a wrong number."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.checkpoints import arrays
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.checkpoints.manifest import HASHED_FILES
from softbio_jax.errors import UserError
from tests.checkpoints import damaging
from tests.checkpoints.test_manager import BASE, _assert_is, _manager, _state


def _large(step):
    """A state whose file is too large to be hashed as a whole."""
    moments = jax.random.normal(jax.random.key(step + 100), (560, 560))
    return _state(step) | {"moments": moments, "more": jnp.full((64, 64), step, jnp.float32)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("large")
    manager = CheckpointManager(workdir, keep=2, base=BASE)
    for step in (1, 2):
        manager.save(step, _large(step), {"at": step})
    manager.close()
    sizes = [path.stat().st_size for path in damaging.files_of(workdir / "checkpoints" / "2")]
    assert max(sizes) > HASHED_FILES
    return workdir


def _skipped(workdir, seed, capfd):
    """Damages checkpoint 2 and restores; returns whether it was skipped."""
    said = []
    with damaging.damaged(workdir / "checkpoints" / "2", seed) as done:
        restored = _manager(workdir, said).restore_newest(_large(0))
    assert restored.step == (1 if said else 2), done
    assert restored.host == {"at": restored.step}, done
    jax.tree.map(np.testing.assert_array_equal, restored.state, _large(restored.step))
    assert len(said) <= 1 and all(line.startswith("checkpoint 2 skipped: ") for line in said), done
    assert capfd.readouterr() == ("", ""), done
    return bool(said)


def test_damage_of_every_kind_is_skipped_or_changes_nothing(large, capfd):
    skipped = [_skipped(large, seed, capfd) for seed in range(2 * len(damaging.KINDS))]
    assert sum(skipped) >= len(skipped) - 2


@pytest.mark.long
def test_four_hundred_ways_to_damage_a_checkpoint(large, capfd):
    skipped = [_skipped(large, seed, capfd) for seed in range(1000, 1400)]
    assert sum(skipped) >= 380  # the rest fell into padding and changed no value
    with capfd.disabled():
        print(f"\n{sum(skipped)} of 400 skipped, {400 - sum(skipped)} harmless")


@pytest.fixture
def run(large, tmp_path):
    shutil.copytree(large, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "error", [Exception("bare"), EOFError(), RecursionError(), OSError(errno.EIO, "bad")]
)
def test_whatever_reading_raises_means_not_this_one(run, monkeypatch, error):
    read = arrays.read

    def fails_on_2(directory, like):
        if directory.parent.name == "2":
            raise error
        return read(directory, like)

    monkeypatch.setattr(arrays, "read", fails_on_2)
    said = []
    assert _manager(run, said).restore_newest(_large(0)).step == 1
    assert len(said) == 1


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "state"),
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        MemoryError(),
        ValueError("PERMISSION_DENIED: Error opening local file"),
    ],
)
def test_a_disk_that_refuses_is_an_error_of_its_own(run, monkeypatch, error):
    def refuses(directory, like):
        raise error

    monkeypatch.setattr(arrays, "read", refuses)
    said = []
    with pytest.raises(UserError, match=r"checkpoint cannot be read: .*checkpoints/2"):
        _manager(run, said).restore_newest(_large(0))
    assert said == []


def test_a_renamed_checkpoint_is_skipped_by_name(run):
    (run / "checkpoints" / "1").rename(run / "checkpoints" / "40")
    said = []
    assert _manager(run, said).restore_newest(_large(0)).step == 2
    assert said == ["checkpoint 40 skipped: it was saved after step 1, so its folder was renamed"]
    shutil.rmtree(run / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"no checkpoint is complete: .*40: it was saved after step 1"):
        _manager(run).restore_newest(_large(0))
    with pytest.raises(UserError, match=r"checkpoint is damaged: .*saved after step 1"):
        _manager(run).restore(40, _large(0))


def test_a_checkpoint_of_another_run_is_refused_by_its_fields(tmp_path):
    ours, theirs = ({"seed": 0, "optimizer.rates.heads": rate, "added": 1} for rate in (1e-3, 2e-3))
    manager = _manager(tmp_path, run=theirs)
    manager.save(2, _state(2), {"at": 2})
    manager.close()
    with pytest.raises(UserError, match=r"of another run: .*optimizer.rates.heads was 0.002, is 0.001"):
        _manager(tmp_path, run=ours).restore_newest(_state(0))
    # A checkpoint of an older version has fewer fields.
    for known in (theirs, {}, {"seed": 0, "new": 3}):
        _assert_is(_manager(tmp_path, run=known).restore_newest(_state(0)), 2)
