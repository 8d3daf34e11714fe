import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.checkpoints import leaves, manifest
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.runs import parallel

BASE = "0" * 64


class Lines(io.StringIO):
    """Appends each printed line to a list."""

    def __init__(self, lines):
        super().__init__()
        self._lines = lines

    def write(self, text):
        self._lines += text.strip("\n").splitlines()
        return len(text)


def _state(step):
    values = jax.random.normal(jax.random.key(step), (16, 8))
    return {"count": jnp.asarray(step), "head": {"kernel": values, "bias": values[0]}}


def _manager(workdir, said=None, **values):
    console = Console(out=Lines(said if said is not None else []))
    return CheckpointManager(workdir, **({"keep": 2, "base": BASE, "console": console} | values))


def _save(workdir, steps, **values):
    manager = _manager(workdir, **values)
    for step in steps:
        manager.save(step, _state(step), {"at": step})
    manager.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    _save(workdir, (1, 2))
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    """A copy of a run with checkpoints 1 and 2."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def _assert_is(restored, step):
    assert (restored.step, restored.host) == (step, {"at": step})
    jax.tree.map(np.testing.assert_array_equal, restored.state, _state(step))


def test_the_newest_comes_back(run):
    said = []
    _assert_is(_manager(run, said).restore_newest(_state(0)), 2)
    assert said == []


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert _manager(tmp_path).restore_newest(_state(0)) is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    manager = _manager(tmp_path)
    for step, best in ((1, None), (2, 1), (3, 1), (4, 1), (5, 3)):
        manager.save(step, _state(step), {"at": step}, best_step=best)
    manager.close()
    assert manager.steps() == [5, 4, 3]
    manager = _manager(tmp_path, keep=1)
    manager.save(6, _state(6), {"at": 6}, best_step=4)
    manager.close()
    assert manager.steps() == [6, 4]


def test_the_state_may_be_given_away_at_once(tmp_path):
    manager = _manager(tmp_path)
    state = _state(7)
    manager.save(7, state, {"at": 7})
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    manager.close()
    _assert_is(manager.restore_newest(_state(0)), 7)


def test_another_mesh_takes_it(run):
    mesh = parallel.make_mesh()
    rows = NamedSharding(mesh, P("data"))
    like = parallel.replicate(_state(0), mesh)
    like["head"]["kernel"] = jax.device_put(like["head"]["kernel"], rows)
    restored = _manager(run).restore_newest(like)
    _assert_is(restored, 2)
    assert restored.state["head"]["kernel"].sharding == rows


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s | {"extra": jnp.zeros(3)}, "extra: expected shape [3], found no such"),
        (lambda s: {"count": s["count"]}, "head/bias"),
        (
            lambda s: s | {"head": {"kernel": jnp.zeros((4, 8)), "bias": s["head"]["bias"]}},
            "head/kernel: expected shape [4, 8], found [16, 8]",
        ),
    ],
)
def test_another_model_is_refused_by_the_leaf(run, change, named):
    with pytest.raises(UserError, match="does not fit this run") as caught:
        _manager(run).restore_newest(change(_state(0)))
    assert named in str(caught.value)


def test_another_base_is_refused(run):
    with pytest.raises(UserError, match="frozen weights are not those"):
        _manager(run, base="1" * 64).restore_newest(_state(0))


def test_a_manifest_that_lies_about_the_values_is_found_out(run):
    """Files as their digests say, values not as they were saved: a fault before the disk."""
    from etils import epath

    folder = epath.Path(run / "checkpoints" / "2")
    true = manifest.read(folder, 2)
    true.leaves["count"] = leaves.describe({"count": np.asarray(3, np.int32)})["count"].to_json()
    manifest.write(folder, true)
    said = []
    _assert_is(_manager(run, said).restore_newest(_state(0)), 1)
    assert said == ["checkpoint 2 skipped: count is not as it was saved"]


def test_checkpoints_with_sha_256_digests_are_still_read(run):
    from etils import epath

    folder = epath.Path(run / "checkpoints" / "2")
    saved = manifest.read(folder, 2)
    for path, leaf in leaves.named(_state(2)).items():
        del saved.leaves[path]["digest"]
        saved.leaves[path]["sha256"] = leaves.of_array(np.asarray(leaf))
    manifest.write(folder, saved)
    _assert_is(_manager(run).restore_newest(_state(0)), 2)
    saved.leaves["count"]["sha256"] = "0" * 64
    manifest.write(folder, saved)
    _assert_is(_manager(run).restore_newest(_state(0)), 1)


def test_nothing_whole_is_an_error_and_never_a_fresh_start(run):
    for step in (1, 2):
        (run / "checkpoints" / str(step) / "state" / "_METADATA").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint is complete: .* found 2 damaged"):
        _manager(run).restore_newest(_state(0))


def test_a_step_done_again_replaces_the_damaged_one(run):
    (run / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    manager = _manager(run)
    manager.restore_newest(_state(0))
    manager.save(2, _state(2), {"at": 2})
    manager.close()
    _assert_is(_manager(run).restore_newest(_state(0)), 2)


def test_a_damaged_one_does_not_push_a_whole_one_out(run):
    (run / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    manager = _manager(run, keep=1)
    manager.restore_newest(_state(0))
    manager.save(3, _state(3), {"at": 3})
    manager.close()
    assert manager.steps() == [3]
    _assert_is(_manager(run).restore_newest(_state(0)), 3)


def test_a_save_that_fails_is_one_line_and_leaves_the_others(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "manifest.json")

    monkeypatch.setattr(manifest, "write", full)
    manager = _manager(run)
    manager.save(3, _state(3), {"at": 3})
    with pytest.raises(UserError, match=r"cannot be written: .* No space left on device"):
        manager.wait()
    monkeypatch.undo()
    said = []
    _assert_is(_manager(run, said).restore_newest(_state(0)), 2)
    assert said == ["checkpoint 3 skipped: no manifest.json, its save was not finished"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises((UserError, OSError)) as caught:
        _save(tmp_path / "run", (1,))
    assert "\n" not in str(caught.value)


def test_manifest_says_what_each_leaf_is(saved):
    values = json.loads((saved / "checkpoints" / "2" / "manifest.json").read_text())
    assert values["leaves"]["head/kernel"]["shape"] == [16, 8]
    assert values["leaves"]["head/kernel"]["dtype"] == "float32"
    assert values["leaves"]["head/kernel"]["digest"].startswith("columns:")
