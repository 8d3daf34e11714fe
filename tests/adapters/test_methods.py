"""Every method: what it trains, in which group, how much of it, and that all of it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import LoRAConfig, TaskRules
from softbio_jax.adapters.methods import GROUPS
from softbio_jax.errors import UserError
from softbio_jax.models.config import VISION
from softbio_jax.params import by_group, combine, flatten, partition
from softbio_jax.tasks import AGE
from tests.adapters import towers
from tests.compiling import quick_jit

R64 = LoRAConfig(rank=64, alpha=64.0)
D64 = LoRAConfig(rank=64, alpha=64.0, dora=True)
L14 = "PE-Core-L14-336"
VARIANTS = [name for name in VISION if name.startswith("PE-")]


def counts(method, variant, tasks=towers.TASK_SPECS):
    shapes = towers.abstract(method, variant, tasks)
    return by_group(shapes, method.label(list(flatten(shapes))))


def adapters_alone(method, variant):
    """Scalars and tensors of the adapters, per-task ones and probes apart."""
    shapes = flatten(towers.abstract(method, variant))
    names = ("lora_a", "lora_b", "dora_magnitude")
    own = {k: v for k, v in shapes.items() if k.split("/")[-1] in names and "/tasks/" not in k}
    scalars = sum(int(np.prod(v.shape)) for v in own.values())
    tensors = sum(v.shape[0] if "/trunk/" in k else 1 for k, v in own.items())
    return scalars, tensors


class TestGoldenCounts:
    """Of the thesis' tower; the adapter files' sizes confirm the first two."""

    def test_thesis_dora(self):
        assert adapters_alone(methods.dora(R64), L14) == (26_179_584, 297)
        groups = counts(methods.dora(R64, pool_apart=True), L14)
        assert sum(groups[g] for g in ("adapter_a", "adapter_b", "magnitude", "pooling")) == (26_179_584)

    def test_thesis_mtlora(self):
        assert adapters_alone(methods.mtlora(D64), L14) == (24_329_216, 276)
        groups = counts(methods.mtlora(D64, pool_apart=True), L14)
        # A last block and a pooling of 1,179,648 each a task, and a probe.
        assert groups["pooling"] == 3 * (1_179_648 + 1024)
        adapters = groups["adapter_a"] + groups["adapter_b"] + groups["magnitude"]
        assert adapters == 24_329_216 + 3 * 1_179_648

    def test_fine_tuning_four_blocks(self):
        assert counts(methods.ft(4), L14) == {
            "blocks": 50_384_896,
            "pooling": 12_595_200,
            "heads": 3_173_394,
            "frozen": 317_151_232 - 50_384_896 - 12_595_200,
        }

    def test_probes_and_full(self):
        assert counts(methods.lp(), L14) == {"frozen": 317_151_232, "heads": 3_173_394}
        assert counts(methods.ap(), L14)["pooling"] == 12_595_200
        full = counts(methods.full(), L14)
        assert full["frozen"] == 1024 * 1024  # the projection, which the heads do not read
        assert full["blocks"] + full["pooling"] + full["frozen"] == 317_151_232

    def test_single_task_heads(self):
        assert counts(methods.lp(), L14, (AGE,))["heads"] == 1_060_873

    # blocks of the trunk: (in + out) R of each layer; pooling: out, c_fc, c_proj.
    @pytest.mark.parametrize(
        ("variant", "adapters"),
        [
            ("PE-Core-T16-384", 64 * (12 * (768 + 384 + 960 + 960) + 384 + 960 + 960)),
            ("PE-Core-B16-224", 64 * (12 * (3072 + 1536 + 3840 + 3840) + 1536 + 3840 + 3840)),
            ("PE-Lang-L14-448", 64 * 23 * (4096 + 2048 + 5120 + 5120)),
            ("PE-Spatial-G14-448", 64 * 50 * (6144 + 3072 + 2 * (1536 + 8960))),
        ],
    )
    def test_lora_on_other_towers(self, variant, adapters):
        groups = counts(methods.lora(R64), variant)
        assert groups["adapter_a"] + groups["adapter_b"] == adapters

    def test_lora_plus_adapts_what_lora_does(self):
        assert counts(methods.lora_plus(R64), L14) == counts(methods.lora(R64), L14)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_labels_every_leaf_of_every_variant(variant):
    tasks = (AGE,) if "Core" in variant else towers.TASK_SPECS
    for name in ("lp", "ap", "ft2", "full", "lora_every_layer", "mtlora", "mtlora_paper"):
        groups = counts(towers.METHODS[name], variant, tasks)
        assert groups["heads"] > 0, name
        assert ("frozen" in groups) or name == "full", name


@pytest.mark.parametrize(
    ("variant", "name"),
    [("tiny-test", name) for name in towers.METHODS if name not in ("lora", "lora_plus", "rslora")]
    + [("tiny-dense", "full")]
    + [
        pytest.param("tiny-dense", name, marks=pytest.mark.long) for name in ("dora", "mtlora", "mtlora_task")
    ],
)
def test_every_trainable_leaf_learns(variant, name):
    method = towers.METHODS[name]
    model = towers.model(method, variant)
    x = towers.images(model.config)
    variables = towers.variables(model)
    groups = method.label(list(flatten(variables["params"])))
    params = towers.stirred(variables["params"])
    trainable, frozen = partition(params, lambda path: groups[path] != methods.FROZEN)

    @quick_jit
    def gradient(trainable):
        def loss(trainable):
            logits = model.apply({**variables, "params": combine(trainable, frozen)}, x)
            return sum(jnp.sum(jnp.sin(3 * v)) for v in logits.values())

        return jax.grad(loss)(trainable)

    # A key's bias adds the same number to a row of attention logits, which softmax ignores.
    silent = ("attn/qkv/bias", "attn/kv/bias", "attn/q/bias")
    for path, leaf in flatten(gradient(trainable)).items():
        if not path.endswith(silent):
            stacked = "/trunk/" in path or "/tail/" in path
            for row in leaf if stacked else leaf[None]:
                assert np.abs(row).max() > 1e-8, path


def test_per_task_adapters_learn_for_each_task_apart():
    method = towers.METHODS["mtlora"]
    model = towers.model(method)
    x = towers.images(model.config)
    variables = towers.variables(model)
    params = towers.stirred(variables["params"])
    gradient = quick_jit(
        jax.grad(lambda params: jnp.sum(model.apply({**variables, "params": params}, x)["gender"] ** 2))
    )(params)
    for path, leaf in flatten(gradient).items():
        if "/tasks/" in path or path.endswith("task_probe"):
            by_task = np.moveaxis(np.asarray(leaf), 1 if "/tail/" in path else 0, 0)
            assert [bool(np.abs(t).max() > 0) for t in by_task] == [False, True, False], path


def test_the_known_groups_are_those_of_the_methods():
    own = {group for method in towers.METHODS.values() for _, group in method.groups}
    assert own - {methods.FROZEN} | {"log_var"} == set(GROUPS)


def test_low_rank_layers_are_in_the_groups_of_their_rates():
    shapes = towers.abstract(methods.mtlora(D64, pool_apart=True), L14)
    groups = methods.mtlora(D64, pool_apart=True).label(list(flatten(shapes)))
    assert groups["encoder/trunk/attn/qkv/lora_a"] == "adapter_a"
    assert groups["encoder/trunk/attn/qkv/lora_b"] == "adapter_b"
    assert groups["encoder/trunk/attn/qkv/dora_magnitude"] == "magnitude"
    assert groups["encoder/trunk/attn/qkv/dora_base_norm"] == "frozen"
    assert groups["encoder/tail/attn/qkv/tasks/lora_b"] == "adapter_b"
    assert groups["pool/attn/q/tasks/lora_b"] == groups["pool/task_probe"] == "pooling"
    assert groups["pool/probe"] == "frozen"


class TestBadInput:
    def test_a_target_that_matches_nothing_names_the_nearest_layers(self):
        method = methods.lora(towers.LORA, targets=["encoder/trunk/attn/qvk"])
        with pytest.raises(UserError, match="nearest are encoder/trunk/attn/qkv"):
            counts(method, "tiny-test")

    def test_a_target_behind_another_that_takes_all_its_layers(self):
        method = methods.lora(towers.LORA, targets=[methods.BLOCK_TARGETS, ".*/attn/qkv"])
        with pytest.raises(UserError, match="that no earlier target matches"):
            counts(method, "tiny-test")

    def test_a_suffix_does_not_match_by_accident(self):
        with pytest.raises(UserError, match="matches no layer"):
            counts(methods.lora(towers.LORA, targets=["qkv"]), "tiny-test")

    @pytest.mark.parametrize("blocks", [0, -1])
    def test_fine_tuning_no_block(self, blocks):
        with pytest.raises(UserError, match=r"method.blocks: expected .* 1 "):
            methods.ft(blocks)

    def test_fine_tuning_more_blocks_than_there_are(self):
        with pytest.raises(UserError, match="tiny-test: expected at most 3, found 4"):
            counts(methods.ft(4), "tiny-test")

    def test_unknown_method(self):
        with pytest.raises(UserError, match="expected one of lp, ap, ft, full, lora"):
            methods.method("adapterfusion")

    def test_arguments_of_another_method(self):
        with pytest.raises(UserError, match=r"method lp: expected lp\(\), found .*config"):
            methods.method("lp", config=towers.LORA)

    def test_dora_on_a_tasks_own_layers(self):
        own = ((".*", towers.DORA),)
        with pytest.raises(UserError, match="plain LoRA"):
            TaskRules(rules=own)
