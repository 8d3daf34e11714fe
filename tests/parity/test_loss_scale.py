"""The loss scale against torch's GradScaler."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from softbio_jax.runs import state
from softbio_jax.runs.state import LossScale


def test_the_scale_follows_torchs(monkeypatch):
    assert torch.amp.GradScaler("cpu").get_growth_interval() == state.GROWTH_STEPS
    assert torch.amp.GradScaler("cpu").get_scale() == state.FIRST
    monkeypatch.setattr(state, "GROWTH_STEPS", 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    ours = LossScale(jnp.float32(1024), jnp.int32(0), jnp.int32(0))
    after = jax.jit(lambda scale, finite: scale.after(loss=jnp.asarray(True), gradient=finite))
    seen = set()
    for finite in np.random.default_rng(0).random(200) > 0.15:
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (1.0 if finite else float("inf"))).backward()
        scaler.step(optimizer)
        scaler.update()
        ours = after(ours, finite)
        assert ours.scale == scaler.get_scale()
        seen.add(scaler.get_scale())
    assert len(seen) > 3
