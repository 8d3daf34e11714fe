"""What a step's operations and bytes belong to: by part, by line, and between chips."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.models.flops import flops_by_scope
from softbio_jax.planning import estimate, hlo, parts
from softbio_jax.planning.collectives import devices_of, sent_bytes
from softbio_jax.planning.parts import part_of
from softbio_jax.runs import parallel
from softbio_jax.runs.chips import CHIPS


def test_an_estimate_takes_the_compilers_cycles_where_the_clock_is_known():
    part = {"flops": 0.65e12, "kernel_flops": 0, "bytes": 0.0, "cycles": 3e9}
    chip = dataclasses.replace(CHIPS["v5e"], flops=1e12, bandwidth=1e9, clock=1.5e9)
    assert estimate.part_seconds(part, chip, 1) == pytest.approx(2.0)
    assert estimate.part_seconds(part | {"kernel_flops": 0.65e12}, chip, 1) == pytest.approx(3.0)
    assert estimate.part_seconds(part | {"bytes": 4.5e9}, chip, 1) == pytest.approx(5.0)
    assert estimate.part_seconds(part, dataclasses.replace(chip, clock=0), 1) == pytest.approx(1.0)
    assert estimate.part_seconds(part | {"cycles": 0}, chip, 2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("jvp(M.features)/encoder/while/body/trunk/block/attn/shard_map/pallas_call", "attention"),
        ("transpose(jvp(M.features))/pool/attn/vmap(BNTS,BSNH->BTNH)/dot_general", "attention"),
        ("jvp(M.features)/encoder/trunk/block/attn/qkv/dot_general", "products"),
        ("jvp(M.features)/encoder/trunk/block/attn/qkv/qkv._adapted/dot_general", "adapters"),
        ("transpose(jvp(M.features))/encoder/tail/block/mlp/c_fc/tasks/tbni,tpir/dot_general", "adapters"),
        ("jvp(M.features)/encoder/patch_embed/dot_general", "products"),
        ("jvp(M.features)/encoder/trunk/block/mlp/erfc", "norms and elementwise"),
        ("jvp(M.features)/encoder/trunk/block/ln_1/reduce_sum", "norms and elementwise"),
        ("jit(train_step)/jvp(MultitaskModel.classify)/heads/age/dense_0/dot_general", "heads and loss"),
        ("jit(train_step)/jvp(loss)/reduce_sum", "heads and loss"),
        ("jit(train_step)/optimizer/mul", "optimizer"),
        ("jit(train_step)/augment/vmap()/gather", "augmentation"),
        ("jvp(M.features)/encoder/while/body/dynamic_update_slice", "kept values"),
        ("", "other"),
    ],
)
def test_a_path_of_modules_has_a_part(path, part):
    assert part_of(path) == part


def test_operations_are_named_by_the_scopes_around_them():
    def inner(x):
        with jax.named_scope("inner"):
            return x @ x

    def outer(x):
        with jax.named_scope("outer"):
            return jax.lax.scan(lambda x, _: (inner(x), None), x, None, length=5)[0]

    counted = flops_by_scope(jax.make_jaxpr(outer)(jnp.ones((8, 8))))
    ((scope, flops),) = counted.items()
    assert flops == 5 * 2 * 8**3
    assert [name for name in scope.split("/") if name] == ["outer", "inner", "dot_general"]


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}", 2 * 3 / 4),
        ("all-reduce(%x), replica_groups=[2,4]<=[8]", 2 * 3 / 4),
        ("all-reduce-start(%x), replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}", 2 * 1 / 2),
        ("all-reduce(%x), replica_groups=mesh['data'=4,'fsdp'=2] {'data','fsdp'}", 2 * 7 / 8),
        ("all-reduce(%x), replica_groups={}", 2 * 7 / 8),
        ("all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}", 7),
        ("reduce-scatter(%x), replica_groups=[1,8]<=[8]", 7 / 8),
        ("all-to-all(%x), replica_groups=[1,8]<=[8]", 7 / 8),
        ("collective-permute(%x), source_target_pairs={{0,1},{1,0}}", 1),
        ("all-reduce(%x), replica_groups={{0},{1}}", 0),
        ("add(%x, %x)", 0),
    ],
)
def test_what_a_chip_sends_by_hand(line, sent):
    program = f"""HloModule jit_f, num_partitions=8

ENTRY %main (x: f32[1000]) -> f32[1000] {{
  %x = f32[1000]{{0}} parameter(0)
  ROOT %y = f32[1000]{{0}} {line}
}}
"""
    computations, entry = hlo.parse(program)
    total = sum(
        sent_bytes(ran, computations, devices_of(program)) for ran in hlo.executed(computations, entry)
    )
    assert total == round(4000 * sent)


def test_what_the_compiler_makes_of_a_sum_over_devices_is_counted():
    mesh = parallel.make_mesh(fsdp=2)
    x = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    everywhere = parallel.replicated(mesh)
    compiled = jax.jit(lambda x: x.sum(0), out_shardings=everywhere).lower(x).compile()
    costs = parts.costs(compiled.as_text(), jax.make_jaxpr(lambda: 0)())
    assert costs.sent == 2 * 7 / 8 * 4 * 1000
