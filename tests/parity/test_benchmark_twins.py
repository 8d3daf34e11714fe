"""The benchmark's torch side computes what this package computes, so that times compare."""

import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import torch

from softbio_jax.data.augment import normalize
from softbio_jax.interop import stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL, vision_shapes
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import vision_config
from softbio_jax.params import flatten, unflatten
from softbio_jax.runs import build

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
CONFIG = vision_config("tiny-test")
_DEEP = {"variant": "tiny-demo", "image_size": 48}  # more than four blocks


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def a_workload(method, **changes):
    from benchmarks.comparison.workload import Workload

    shape = {"variant": "tiny-test", "batch": 4, "image_size": 32, "rank": 4}
    return Workload(**{"work": "train", "method": method} | shape | changes)


def ours_with_weights(workload):
    """The model, and parameters of which every adapter is away from its start."""
    from benchmarks.ours import step as ours

    run = ours.parts(workload)
    base = stacking.stack(OFFICIAL.forward(named_state(vision_shapes(CONFIG))), tail=run.model.tail)
    rng = np.random.default_rng(0)
    shapes = flatten(build.abstract_params(run.config, run.model))
    params = {
        path: base[path] if path in base else rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }
    return run.model, params


def twin_with_base(workload, monkeypatch):
    from benchmarks.twins import step as twin

    def loaded(workload):
        model = plain(workload)
        state = OFFICIAL_TO_TIMM.forward(named_state(vision_shapes(CONFIG)))
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
        missing, extra = model.load_state_dict(tensors, strict=False)
        assert not missing and all(name.startswith("head.") for name in extra)
        return model

    plain = twin.tower
    monkeypatch.setattr(twin, "tower", loaded)
    return twin.adapted(workload).eval()


def put(parameter, array):
    assert parameter.requires_grad and parameter.shape == array.shape
    parameter.data = torch.from_numpy(np.ascontiguousarray(array))


def load_shared(blocks, params):
    names = {"attn.qkv": "attn/qkv", "attn.proj": "attn/out", "mlp.fc1": "mlp/c_fc", "mlp.fc2": "mlp/c_proj"}
    for i, block in enumerate(blocks):
        for theirs, own in names.items():
            layer = block.get_submodule(theirs)
            for leaf in ("a", "b"):
                weight = getattr(layer, f"lora_{leaf.upper()}")["default"].weight
                put(weight, params[f"encoder/trunk/{own}/lora_{leaf}"][i].T)


def load_tasks(linears, a, b):
    """Puts (T, P, in, R) and (T, P, R, out) into one TaskLinear a projection."""
    for p, linear in enumerate(linears):
        for t in range(len(a)):
            put(linear.a[t], a[t, p].T)
            put(linear.b[t], b[t, p].T)


def load_mtlora(tower, params):
    load_shared(tower.tower.blocks, params)
    part, pool = tower.parting, tower.pooling
    block = {"attn/qkv": part.qkv, "attn/out": [part.proj], "mlp/c_fc": [part.fc1], "mlp/c_proj": [part.fc2]}
    pooling = {
        "attn/q": [pool.q],
        "attn/kv": pool.kv,
        "attn/out": [pool.proj],
        "mlp/c_fc": [pool.fc1],
        "mlp/c_proj": [pool.fc2],
    }
    for name, linears in block.items():
        prefix = f"encoder/tail/{name}/tasks/lora"
        load_tasks(linears, params[f"{prefix}_a"][0], params[f"{prefix}_b"][0])
    for name, linears in pooling.items():
        load_tasks(linears, params[f"pool/{name}/tasks/lora_a"], params[f"pool/{name}/tasks/lora_b"])
    for t, probe in enumerate(pool.probes):
        put(probe, params["pool/task_probe"][t])


def test_mtlora_features_are_ours(monkeypatch):
    from benchmarks.comparison.workload import example_batch

    workload = a_workload("mtlora")
    model, params = ours_with_weights(workload)
    images = example_batch(workload)["image"]
    ours = model.apply({"params": unflatten(params)}, normalize(images), method="features")

    twin = twin_with_base(workload, monkeypatch)
    load_mtlora(twin.tower, params)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        theirs = twin.tower(pixels).numpy()
    for t, task in enumerate(workload.tasks):
        np.testing.assert_allclose(theirs[t], ours[task], atol=2e-5, rtol=1e-4)
    apart = np.abs(theirs[0] - theirs[1]).max()
    assert apart > 1e-2  # the tasks' updates reach the features


def test_losses_are_ours():
    from benchmarks.comparison.workload import example_batch
    from benchmarks.twins import step as twin
    from softbio_jax.losses import balancing
    from softbio_jax.runs.step import task_losses

    workload = a_workload("lora", batch=5)
    batch = example_batch(workload)
    batch["mask/emotion"][:], batch["labels/emotion"][:] = False, -1  # a task without a label
    rng = np.random.default_rng(1)
    logits = {"age": (5, 9), "gender": (5, 2), "emotion": (5, 7)}
    logits = {t: rng.normal(0, 2, shape).astype(np.float32) for t, shape in logits.items()}
    log_vars = {"age": 0.3, "gender": -0.7, "emotion": 0.1}
    ours, _ = balancing.total(
        task_losses(logits, batch, workload.tasks),
        {t: {"log_var": np.float32(s)} for t, s in log_vars.items()},
        balancing.BalancingConfig(),
    )
    model = twin.adapted(workload)
    for task, s in log_vars.items():
        model.log_var[task].data.fill_(s)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}
    tensors |= {n: v.long() for n, v in tensors.items() if n.startswith("labels/")}
    theirs = twin.loss_of(model, {t: torch.from_numpy(v) for t, v in logits.items()}, tensors)
    np.testing.assert_allclose(theirs.item(), ours, rtol=1e-6)


@pytest.mark.parametrize("method", ["lora", "dora", "mtlora", "ft4"])
def test_as_many_parameters_are_trained(method):
    from benchmarks.ours import step as ours
    from benchmarks.twins import step as twin

    workload = a_workload(method, **_DEEP if method == "ft4" else {})
    run = ours.parts(workload)
    shapes = flatten(build.abstract_params(run.config, run.model))
    own = sum(int(np.prod(v.shape)) for path, v in shapes.items() if run.groups[path] != "frozen")
    theirs = sum(p.numel() for p in twin.adapted(workload).parameters() if p.requires_grad)
    assert theirs == own


@pytest.mark.parametrize(
    ("work", "method", "dtype"),
    [
        ("train", "lora", "float32"),
        ("train", "mtlora", "float32"),
        ("forward", "merged", "float32"),
        ("train", "lora", "bfloat16"),
        ("train", "ft4", "bfloat16"),
    ],
)
def test_the_torch_side_runs(work, method, dtype):
    from benchmarks.twins import step as twin

    workload = a_workload(method, work=work, dtype=dtype, **_DEEP if method == "ft4" else {})
    repetition, facts = twin.prepare(workload.to_json(), "eager")
    repetition()
    assert facts["trainable"] > 0


def test_side_by_side(tmp_path):
    """Both processes, taking turns, at the smallest size."""
    from benchmarks.comparison import results, runner, suites

    (case,) = suites.choose("cpu", ["lora-b16"], scratch=str(tmp_path), small=True)
    eager = tuple(entry for entry in case.entries if "compiled" not in (entry.form or ""))
    case = dataclasses.replace(case, entries=eager)
    start = runner.starter(torch_python=sys.executable, platform="cpu")
    result = runner.run(case, start, repeats=2)
    assert list(result["entries"]) == ["ours", "eager"]
    assert all(len(entry["samples"]) == 2 for entry in result["entries"].values())
    assert result["facts"]["ours"]["trainable"] == result["facts"]["eager"]["trainable"]
    assert "(eager)" in results.row(result)
