import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from softbio_jax.errors import UserError
from softbio_jax.runs import parallel


def test_a_mesh_has_every_device():
    mesh = parallel.make_mesh(fsdp=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}


def test_a_torus_that_the_groups_do_not_divide_is_split(monkeypatch):
    def refused(*args, **values):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 1 of size 8")

    monkeypatch.setattr(jax, "make_mesh", refused)
    mesh = parallel.make_mesh(fsdp=4)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    assert set(mesh.devices.flat) == set(jax.devices())
    assert parallel.batch_sharding(mesh).mesh.axis_types == parallel.make_mesh().axis_types


@pytest.mark.parametrize("fsdp", [0, 3, 16])
def test_fsdp_that_does_not_divide_the_devices_is_told(fsdp):
    with pytest.raises(UserError, match=r"mesh.fsdp: expected a divisor of 8 devices"):
        parallel.make_mesh(fsdp=fsdp)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((1024, 4096), P("fsdp")),
        ((24, 1024, 3072), P(None, "fsdp")),  # blocks are scanned over the first axis
        ((24, 4096, 1024), P(None, "fsdp")),
        ((14, 14, 3, 1024), P(None, None, None, "fsdp")),  # three colours do not divide
        ((577, 1024), P(None, "fsdp")),
        ((1023, 4096 + 1), P()),  # nothing that divides
        ((64, 64), P()),  # too small to be worth it
        ((1024,), P()),
    ],
)
def test_weights_lie_over_the_axis_that_products_sum_over(shape, spec):
    assert parallel.weight_sharding(shape, parallel.make_mesh(fsdp=4)).spec == spec


def test_without_fsdp_weights_are_replicated():
    assert parallel.weight_sharding((1024, 4096), parallel.make_mesh()).spec == P()


def test_sharded_weights_take_their_share_of_memory_and_keep_their_values():
    weights = {"kernel": np.arange(2**18, dtype=np.float32).reshape(512, 512)}
    placed = parallel.shard_weights(weights, parallel.make_mesh(fsdp=4))["kernel"]
    np.testing.assert_array_equal(placed, weights["kernel"])
    assert {shard.data.size for shard in placed.addressable_shards} == {2**16}


def test_a_batch_is_split_over_all_devices_in_order():
    batch = parallel.to_global({"index": np.arange(16)}, parallel.make_mesh(fsdp=2))
    parts = [np.asarray(shard.data).tolist() for shard in batch["index"].addressable_shards]
    assert sorted(parts) == [[2 * i, 2 * i + 1] for i in range(8)]


def test_a_replicated_tree_does_not_share_memory_with_the_host():
    host = np.zeros((4, 4), np.float32)
    placed = parallel.replicate({"a": host}, parallel.make_mesh())["a"]
    host[:] = 1
    assert not np.asarray(placed).any()


@pytest.mark.parametrize("batch", [0, 12, 8])
def test_a_batch_without_whole_rows_a_device_is_told(batch):
    with pytest.raises(UserError, match="a multiple of 8 devices x 2 microbatches = 16"):
        parallel.check_batch(batch, parallel.make_mesh(), microbatches=2, where="train.batch_size")


def test_processes_are_described_wholly_or_not_at_all():
    with pytest.raises(UserError, match="all three or none, found 1 of them"):
        parallel.start_distributed(process_id=0)


def test_the_first_device_alone_makes_a_mesh():
    assert parallel.make_mesh(devices=jax.devices()[:1]).size == 1
