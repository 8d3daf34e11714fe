import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.methods import BLOCK_TARGETS, POOL_TARGETS
from softbio_jax.models import positions
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.flops import (
    Flops,
    adapter_flops,
    dora_norm_flops,
    head_flops,
    task_flops,
    text_flops,
    vision_flops,
    zero_shot_flops,
)
from softbio_jax.models.multitask import HeadConfig, MultitaskModel
from softbio_jax.models.text import CLIP, TextEncoder
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import count
from softbio_jax.tasks import AGE, EMOTION, GENDER

L14 = "PE-Core-L14-336"
# Each shape once, at one resolution.
SHAPES = {dataclasses.replace(c, name="any", image_size=c.patch_size): name for name, c in VISION.items()}
TEXTS = {config: name for name, config in TEXT.items()}


def traced_flops(function, *arguments):
    """Two for each multiply-add of the traced function's matrix products; nothing is run."""
    return _walk(jax.make_jaxpr(function)(*arguments).jaxpr)


def _walk(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        assert equation.primitive.name not in ("conv_general_dilated", "while")
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * equation.outvars[0].aval.size
        if equation.primitive.name == "cond":  # `row_mean`: a product on the CPU, a sum elsewhere
            assert equation.params["branches_platforms"] == (("cpu",), None)
            assert _walk(equation.params["branches"][1].jaxpr) == 0
        for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            inner_jaxpr = equation.params.get(name)
            if inner_jaxpr is not None:
                total += times * _walk(getattr(inner_jaxpr, "jaxpr", inner_jaxpr))
    return total


def traced_model(model, *arguments, **keywords):
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    return traced_flops(lambda v, *a: model.apply(v, *a, **keywords), variables, *arguments)


def image(config, rows=1, columns=1):
    size = (1, rows * config.patch_size, columns * config.patch_size, 3)
    return jax.ShapeDtypeStruct(size, jnp.float32)


class TestAgainstTheTracedModel:
    @pytest.mark.parametrize("variant", SHAPES.values())
    def test_every_vision_tower(self, variant):
        config = VISION[variant]
        found = traced_model(VisionEncoder(config), image(config, config.grid, config.grid))
        assert vision_flops(config).total == found

    def test_another_grid(self):
        config = VISION[L14]
        found = traced_model(VisionEncoder(config), image(config, 9, 14))
        table = jax.ShapeDtypeStruct((config.tokens, config.width), jnp.float32)
        resampling = traced_flops(
            lambda t: positions.resample(t, stored=config.grid, grid=(9, 14), class_token=True), table
        )
        assert vision_flops(config, grid=(9, 14)).total == found - resampling

    @pytest.mark.parametrize("variant", TEXTS.values())
    def test_every_text_tower(self, variant):
        config = TEXT[variant]
        ids = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
        assert text_flops(config).total == traced_model(TextEncoder(config), ids)
        short = jax.ShapeDtypeStruct((1, 7), jnp.int32)
        assert text_flops(config, tokens=7).total == traced_model(TextEncoder(config), short)

    def test_image_and_prompts(self):
        vision, text = VISION[L14], TEXT[L14]
        ids = jax.ShapeDtypeStruct((5, text.context), jnp.int32)
        model = CLIP(vision, text_config=text)
        found = traced_model(model, image(vision, vision.grid, vision.grid), ids)
        assert zero_shot_flops(vision, text, prompts=5).total == found

    @pytest.mark.parametrize("kind", ["deep", "linear"])
    def test_heads(self, kind):
        config, head = VISION["tiny-test"], HeadConfig(kind=kind)
        model = MultitaskModel(config, tasks=(AGE, EMOTION), head=head)
        heads = [head_flops(head, width=config.width, classes=task.num_classes) for task in (AGE, EMOTION)]
        expected = vision_flops(config, projected=False) + heads[0] + heads[1]
        assert expected.total == traced_model(model, image(config, config.grid, config.grid))

    @pytest.mark.parametrize("targets", [(BLOCK_TARGETS,), (BLOCK_TARGETS, POOL_TARGETS)])
    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("tail", [0, 1])
    def test_adapters(self, targets, dora, tail):
        config = VISION["tiny-test"]
        adapter = LoRAConfig(rank=3, alpha=6, dora=dora)
        rules = AdapterRules(rules=tuple((target, adapter) for target in targets))
        model = VisionEncoder(config, adapters=rules, tail=tail)
        expected = vision_flops(config) + adapter_flops(config, rules, tail=tail)
        expected += dora_norm_flops(config, rules, tail=tail)
        assert expected.total == traced_model(model, image(config, config.grid, config.grid))
        assert (dora_norm_flops(config, rules, tail=tail) == Flops()) == (not dora)

    @pytest.mark.parametrize("placement", ["last_block", "paper"])
    @pytest.mark.parametrize("base_input", ["shared", "task"])
    @pytest.mark.parametrize("variant", ["tiny-test", "PE-Spatial-T16-512"])
    def test_per_task_adapters(self, variant, base_input, placement):
        config = VISION[variant]
        config = dataclasses.replace(config, pooling="avg" if config.pooling == "none" else config.pooling)
        method = methods.mtlora(
            LoRAConfig(rank=3, alpha=6, dora=True), task_rank=2, base_input=base_input, placement=placement
        )
        rules = method.rules.for_tasks(3)
        model = MultitaskModel(
            config,
            adapters=method.rules,
            tail=1,
            tasks=(AGE, EMOTION, GENDER),
            head=HeadConfig(kind="linear"),
        )
        expected = vision_flops(config, projected=False) + adapter_flops(config, rules, tail=1)
        expected += dora_norm_flops(config, rules, tail=1) + task_flops(config, rules)
        for task in model.tasks:
            expected += head_flops(model.head, width=config.width, classes=task.num_classes)
        found = traced_model(model, image(config, config.grid, config.grid))
        assert expected.total == found

    def test_only_the_tail_is_adapted(self):
        config, adapter = VISION["tiny-test"], LoRAConfig(rank=2, alpha=2)
        rules = AdapterRules(rules=(("encoder/tail/attn/qkv", adapter),))
        assert adapter_flops(config, rules, tail=0) == Flops()
        one = 2 * config.tokens * 2 * (config.width + 3 * config.width)
        assert adapter_flops(config, rules, tail=2) == Flops(dense=2 * one)


class TestTheThesisFigures:
    """One image of 336 x 336 and 18 prompts of 32 ids through PE-Core-L14-336.

    The measured figures are those of torch 2.15 (CPU, float32, official code, second call).
    """

    FLOPS = zero_shot_flops(VISION[L14], TEXT[L14], prompts=18)

    def test_matrix_products(self):
        conv, addmm, mm = 693_633_024, 611_856_678_912, 87_012_970_496
        assert self.FLOPS.dense == conv + addmm + mm

    def test_with_attention_as_torchs_flop_counter_has_it(self):
        assert self.FLOPS.total == 734_105_837_568
        assert vision_flops(VISION[L14]).total == 384_363_761_664

    def test_without_attention_as_torchs_profiler_has_it(self):
        assert f"{self.FLOPS.profiler / 1e9:.6f}" == "699.762940"
        assert f"{self.FLOPS.profiler / 1e9:.2f}" == "699.76"
        assert f"{vision_flops(VISION[L14]).profiler / 1e9:.2f}" == "351.80"
        # Four scalar operations are no part of the forward formula: the profiler's are more.
        added, multiplied = 86_214_659, 113_442_817
        assert added + multiplied - self.FLOPS.elementwise == 4

    def test_the_profilers_figure_on_a_second_variant(self):
        found = zero_shot_flops(VISION["PE-Core-T16-384"], TEXT["PE-Core-T16-384"], prompts=2)
        assert found.total == 14_333_734_656
        assert 11_231_569_284 - found.profiler == 4

    def test_parameters(self):
        config, text = VISION[L14], TEXT[L14]
        model = CLIP(config, text_config=text)
        ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), image(config), ids)["params"]
        vision = {name: params[name] for name in ("encoder", "pool", "proj")}
        rest = {name: params[name] for name in ("text", "logit_scale")}
        assert count(rest) == 353_986_561
        assert count(vision) == 317_151_232
        assert count(params) == 671_137_793

    @pytest.mark.parametrize(
        ("tasks", "expected"),
        [((AGE,), 318_212_106), ((GENDER,), 318_204_931), ((EMOTION,), 318_210_056)],
        ids=["age", "gender", "emotion"],
    )
    def test_parameters_with_one_deep_head_and_log_variance(self, tasks, expected):
        config = VISION[L14]
        model = MultitaskModel(config, tasks=tasks, head=HeadConfig(kind="deep"))
        params = jax.eval_shape(model.init, jax.random.key(0), image(config))["params"]
        log_variance, projection = 1, config.width * config.out_dim
        has_projection = "proj" in params
        assert count(params) + log_variance + (0 if has_projection else projection) == expected


def test_flops_add_and_multiply_by_kind():
    one = Flops(dense=1, attention=10, elementwise=100)
    assert one + 2 * one == Flops(dense=3, attention=30, elementwise=300) == one * 3
    assert (one.total, one.profiler) == (11, 101)
    assert [field.name for field in dataclasses.fields(Flops)] == ["dense", "attention", "elementwise"]
