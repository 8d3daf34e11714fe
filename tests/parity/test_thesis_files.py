"""The thesis' checkpoint folders: written and read back, and their MTLoRA against torch modules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files
from softbio_jax.interop import peft as our_peft
from softbio_jax.models.multitask import HeadConfig
from softbio_jax.params import flatten
from softbio_jax.thesis import files
from tests.adapters import towers

SCALE_ONE = LoRAConfig(rank=4, alpha=4.0, dora=True)
METHODS = {"dora": methods.dora(SCALE_ONE), "mtlora": methods.mtlora(SCALE_ONE)}


def drawn(name, **kw):
    model = towers.model(METHODS[name], **kw)
    variables = towers.variables(model)
    stats = jax.tree.map(lambda v: v + 0.25, variables["batch_stats"])
    return model, towers.stirred(variables["params"]), stats


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["deep", "linear"])
def test_a_folder_we_wrote_comes_back(name, kind, tmp_path):
    model, params, stats = drawn(name, head=HeadConfig(kind=kind))
    files.write(tmp_path, adapter_files.of_model(params, stats, model.adapters), towers.TASK_SPECS)
    again = files.read(tmp_path, model.config, towers.TASK_SPECS)
    base = towers.without_adapters(params)
    base = {name: base[name] for name in ("encoder", "pool", "proj")}
    back = flatten(adapter_files.attach(base, again))
    for path, leaf in flatten(params).items():
        np.testing.assert_allclose(back[path], leaf, rtol=1e-6, err_msg=path)
    assert set(back) == set(flatten(params))
    jax.tree.map(np.testing.assert_array_equal, again.batch_stats, stats)
    reread = model.clone(adapters=again.rules, tail=again.tail or model.tail)
    x = towers.images(model.config)
    run = lambda m, p, s: jax.jit(m.apply)({"params": p, "batch_stats": s}, x)  # noqa: E731
    ours = run(reread, adapter_files.attach(base, again), again.batch_stats)
    for task, logits in run(model, params, stats).items():
        np.testing.assert_allclose(ours[task], logits, atol=1e-5)


@pytest.mark.parametrize(("name", "tensors"), [("dora", (4 * 3 + 3) * 3), ("mtlora", 4 * 2 * 3)])
def test_the_adapter_file_has_the_thesis_tensors(name, tensors, tmp_path):
    # 297 and 276 on 24 blocks: (4 L + 3) 3 with DoRA on the pooling, 4 (L - 1) 3 with MTLoRA.
    model, params, stats = drawn(name)
    files.write(tmp_path, adapter_files.of_model(params, stats, model.adapters), towers.TASK_SPECS)
    arrays = safetensors.numpy.load_file(tmp_path / our_peft.WEIGHTS)
    assert len(arrays) == tensors
    assert "base_model.model.transformer.resblocks.0.attn.in_proj.lora_A.weight" in arrays


def test_custom_layers_are_named_as_the_code_names_them(tmp_path):
    model, params, stats = drawn("mtlora")
    files.write(tmp_path, adapter_files.of_model(params, stats, model.adapters), towers.TASK_SPECS)
    saved = torch.load(tmp_path / files.CUSTOM, weights_only=True)
    assert set(saved) == {"prediction_layers", "mtl_layer", "mtl_attn_pool"}
    assert "Emotion.0.num_batches_tracked" in saved["prediction_layers"]
    q = saved["mtl_layer"]
    assert q["attn.q.lora_tasks_A.Age"].shape == (4, 32)
    assert q["mlp.c_fc.lora_tasks_B.Gender"].shape == (128, 4)
    # A layer's output for a task, from the file alone.
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    a, b = (q[f"attn.k.lora_tasks_{m}.Gender"].numpy() for m in "AB")
    wanted = x @ a.T @ b.T
    own = params["encoder"]["tail"]["attn"]["qkv"]["tasks"]
    ours = x @ own["lora_a"][0, 1, 1] @ own["lora_b"][0, 1, 1]
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_a_head_of_torch_gives_our_logits(tmp_path):
    model, params, stats = drawn("dora")
    files.write(tmp_path, adapter_files.of_model(params, stats, model.adapters), towers.TASK_SPECS)
    saved = torch.load(tmp_path / files.CUSTOM, weights_only=True)["prediction_layers"]
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(32),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(32, 32),
        torch.nn.GELU(),
        torch.nn.Linear(32, 9),
    ).eval()
    head.load_state_dict({k.removeprefix("Age."): v for k, v in saved.items() if "Age." in k})
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    wanted = head(torch.from_numpy(x)).detach().numpy()
    features = {task.name: jnp.asarray(x) for task in towers.TASK_SPECS}
    ours = model.apply({"params": params, "batch_stats": stats}, features, method="classify")
    np.testing.assert_allclose(ours["age"], wanted, atol=1e-5)


def test_a_task_that_the_file_lacks_and_a_head_of_another_size(tmp_path):
    model, params, stats = drawn("dora")
    files.write(tmp_path, adapter_files.of_model(params, stats, model.adapters), towers.TASK_SPECS[:2])
    with pytest.raises(UserError, match=r"expected prediction_layers.Emotion"):
        files.read(tmp_path, model.config, towers.TASK_SPECS)
    other = dataclasses.replace(towers.TASK_SPECS[0], classes=("a", "b"))
    with pytest.raises(UserError, match="expected 2 classes, found 9"):
        files.read(tmp_path, model.config, (other,))
