"""Training against PyTorch: every method for 100 steps, and mistakes in this package's own step."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from softbio_jax.adapters import math
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.losses.balancing import Uncertainty
from softbio_jax.losses.masked import MaskedMean
from softbio_jax.models import multitask, positions
from softbio_jax.runs import optimizer, step

pytestmark = pytest.mark.long
SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
TRAININGS = [
    *((method, True) for method in ("lp", "ap", "ft4", "lora", "lora_plus", "dora", "mtlora", "mtlora_task")),
    ("lora", False),
    ("mtlora", False),
]


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def trained(method, *, uncertainty, steps=100, **kwargs):
    from training_parity import batches
    from training_parity import case as cases

    case = cases.of_method(method, uncertainty=uncertainty, steps=steps, batch=6, **kwargs)
    return case, cases.start(case), batches.drawn(case, steps)


@pytest.mark.parametrize(("method", "uncertainty"), TRAININGS)
def test_every_leaf_agrees_in_float64_for_a_hundred_steps(method, uncertainty):
    from training_parity import comparison

    found = comparison.in_float64(*trained(method, uncertainty=uncertainty))
    assert found.first is None, str(found.first)
    assert set(found.zero) <= {"pool/attn/kv/bias", "pool/mlp/c_proj/bias"}


@pytest.mark.parametrize(("method", "uncertainty"), TRAININGS)
def test_float32_is_about_as_far_from_float64_as_pytorchs(method, uncertainty):
    from training_parity import comparison

    found = comparison.in_float32(*trained(method, uncertainty=uncertainty))
    assert found.holds(), {kind: found.times(kind) for kind in found.ours}


def test_both_sides_stopped_after_fifty_steps_go_on(tmp_path):
    from training_parity.ladder import Ladder, first_beyond
    from training_parity.ours import Ours
    from training_parity.twin.training import Twin

    case, start, stream = trained("lora", uncertainty=True)
    side, twin, whole = Ours(case, start, dtype="float64"), Twin(case, start, dtype="float64"), []
    for number, batch in enumerate(stream):
        if number == 50:
            side.save(tmp_path)
            torch.save(twin.state_dict(), tmp_path / "state.pt")
        masks = side.masks(batch)
        whole.append(side.step(batch))
        if number < 50:
            twin.step(batch, masks)
    side.restore(tmp_path)
    twin = Twin(case, start, dtype="float64")
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    ladder = Ladder()
    for batch, expected in zip(stream[50:], whole[50:], strict=True):
        masks = side.masks(batch)
        record = side.step(batch)
        jax.tree.map(np.testing.assert_array_equal, record, expected)
        rung = first_beyond(ladder.compare(record, twin.step(batch, masks)), 1e-10)
        assert rung is None, str(rung)


def epsilon_inside_the_root(patch):
    patch.setattr(
        optimizer, "_scale_by_adam", lambda b1, b2, eps: optax.scale_by_adam(b1, b2, 0.0, eps_root=eps)
    )


def decay_coupled_to_the_gradient(patch):
    def coupled(config, rate, weight_decay, mask):
        adam = optax.adam(rate, b1=config.b1, b2=config.b2, eps=config.eps)
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), adam)

    patch.setattr(optimizer, "_named", coupled)


def decay_of_norms(patch):
    patch.setattr(optimizer, "_DECAYED", (*optimizer._DECAYED, "scale"))


def alpha_over_the_root_of_r(patch):
    patch.setattr(LoRAConfig, "scale", property(lambda self: self.alpha / self.rank**0.5))


def gradient_through_doras_norm(patch):
    def gain(kernel, base_norm, a, b, magnitude, scale):
        return magnitude / jnp.sqrt(jnp.sum(jnp.square(kernel + scale * a @ b), axis=-2))

    patch.setattr(math, "dora_gain", gain)


def mean_over_devices(patch):
    def mean(values, mask):
        parts = [plain(v, m) for v, m in zip(jnp.split(values, 2), jnp.split(mask, 2), strict=True)]
        present = jnp.stack([part.present for part in parts])
        each = jnp.stack([part.value for part in parts])
        count = sum(part.count for part in parts)
        return MaskedMean(jnp.sum(each * present) / jnp.maximum(present.sum(), 1) * count, count)

    plain = step.masked_mean
    patch.setattr(step, "masked_mean", mean)


def log_sigma_without_its_half(patch):
    patch.setattr(Uncertainty, "regulariser", lambda self, s: s)


def batch_norms_other_momentum(patch):
    patch.setattr(multitask, "BatchNorm", functools.partial(multitask.BatchNorm, momentum=0.9))


def schedule_one_step_ahead(patch):
    def ahead(*args, **kwargs):
        rate = plain(*args, **kwargs)
        return lambda count: rate(count + 1)

    plain = optimizer.schedule
    patch.setattr(optimizer, "schedule", ahead)


def dropout_without_scaling(patch):
    plain = math.dropout
    patch.setattr(math, "dropout", lambda x, *args, rate: plain(x, *args, rate=rate) * (1 - rate))


def no_rotary_in_training(patch):
    patch.setattr(positions, "rotation", lambda config, grid: None)


OWN = {
    epsilon_inside_the_root: "value",
    decay_coupled_to_the_gradient: "first_moment",
    decay_of_norms: "value",
    alpha_over_the_root_of_r: "loss",
    gradient_through_doras_norm: "gradient",
    mean_over_devices: "loss",
    log_sigma_without_its_half: "total",
    batch_norms_other_momentum: "statistics",
    schedule_one_step_ahead: "rate",
    dropout_without_scaling: "loss",
    no_rotary_in_training: "loss",
}


@pytest.mark.parametrize("mistake", OWN, ids=lambda mistake: mistake.__name__)
def test_a_mistake_of_this_package_is_caught_where_it_is(monkeypatch, mistake):
    from training_parity import case as cases
    from training_parity import comparison

    case, start, stream = trained("dora", uncertainty=True, steps=11, variant="tiny-test", cut=False)
    mistake(monkeypatch)
    case = cases.of_config(case.config, name=case.name)  # with the mistake in its optimizer
    found = comparison.in_float64(case, start, stream, stop=True)
    assert found.first is not None and found.first.kind == OWN[mistake], str(found.first)


def test_a_rate_of_this_package_that_is_not_the_twins_is_caught():
    from training_parity import comparison

    case, start, stream = trained("lora_plus", uncertainty=True, steps=3, variant="tiny-test", cut=False)
    groups = {path: group for path, group in case.run.groups.items() if group != "frozen"}
    rates = {**case.config.optimizer.rates, "adapter_b": case.config.optimizer.rates["adapter_a"]}
    own = dataclasses.replace(case.config.optimizer, rates=rates)
    run = dataclasses.replace(case.run, optimizer=optimizer.make(own, groups, steps=3))
    found = comparison.in_float64(dataclasses.replace(case, run=run), start, stream, stop=True)
    assert found.first is not None and found.first.kind == "value", str(found.first)
    assert found.first.name.endswith("lora_b")


def test_the_command_compares_the_run_of_a_directory(tmp_path):
    from training_parity import case as cases

    case = cases.of_method("mtlora", variant="tiny-test", cut=False, steps=8, batch=6)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(case.config)))
    saved = tmp_path / "found.json"
    flags = ["--training", f"--run={tmp_path}", "--steps=2", "--dtype=float64", f"--save={saved}"]
    flags += [f"--batches={tmp_path / 'stream.npz'}"]
    command = [sys.executable, str(SCRIPTS / "parity.py"), *flags]

    def run(*more):
        return subprocess.run([*command, *more], capture_output=True, text=True, timeout=1200)

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == "every leaf agrees to 1e-10 after every step"
    (found,) = json.loads(saved.read_text()).values()
    assert found["steps"] == 2 and found["first"] is None
    other = run("--as_torch=exact_clipping")
    assert other.returncode == 1, other.stdout + other.stderr
    assert "first to diverge: step 1, first_moment" in other.stdout
    wrong = run("--as_torch=clipping")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: no such switch")
