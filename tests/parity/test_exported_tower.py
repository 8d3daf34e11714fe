"""A run's merged tower under timm's keys, with its heads, run by timm and torch."""

import numpy as np
import pytest
import safetensors.torch
import torch

from softbio_jax.inference.export.stablehlo import portable
from softbio_jax.interop import formats, official, stacking, torch_heads
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.params import flatten
from tests.inference.test_bundle import bundle_of, pixels
from tests.parity.test_peft import timm_tower

pytestmark = pytest.mark.parity


def head_of(state, width, classes):
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(width),
        torch.nn.Dropout(),
        torch.nn.Linear(width, width),
        torch.nn.GELU(),
        torch.nn.Linear(width, classes),
    ).eval()
    head.load_state_dict(state)
    return head


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_timm_with_our_heads_gives_our_logits(name, tmp_path):
    bundle = portable(bundle_of(name)[0])
    params = bundle.variables["params"]
    tower = {k: v for k, v in params.items() if k in ("encoder", "pool", "proj")}
    state = official.OFFICIAL.backward(stacking.unstack(flatten(tower)))
    save_arrays(
        tmp_path / "t.safetensors", formats.FORMATS["timm"].from_official(state), metadata={"format": "pt"}
    )
    torch_heads.save(
        tmp_path / "h.safetensors",
        params,
        bundle.variables["batch_stats"],
        bundle.tasks,
        feature=bundle.model.feature,
    )

    model = timm_tower().eval()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "t.safetensors"))
    heads = safetensors.torch.load_file(tmp_path / "h.safetensors")
    images = pixels(bundle, 3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        feature = model.forward_head(model.forward_features(x), pre_logits=True)
        for task, wanted in bundle.forward(bundle.variables, images).items():
            prefix = f"{task.capitalize()}."
            own = {k.removeprefix(prefix): v for k, v in heads.items() if k.startswith(prefix)}
            found = head_of(own, feature.shape[1], wanted.shape[1])(feature)
            np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)
