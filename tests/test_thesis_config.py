"""The thesis' rows: each configuration builds, trains what its row names, at the code's rates."""

import importlib.util
import pathlib

import pytest

from softbio_jax.params import by_group
from softbio_jax.runs import build

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = ("lp", "ap", "ft4", "full", "lora", "lora_plus", "dora", "mtlora")


@pytest.fixture(scope="module")
def thesis():
    spec = importlib.util.spec_from_file_location("thesis_config", ROOT / "configs" / "thesis.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts_of(thesis, arguments):
    return build.build(thesis.get_config(arguments).to_dict())


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("tasks", ["age+gender+emotion", "emotion"])
def test_every_row_builds_and_trains_its_groups(thesis, row, tasks):
    run = parts_of(thesis, f"method={row},tasks={tasks}")
    groups = set(run.groups.values())
    trained = {
        "lp": set(),
        "ap": {"pooling"},
        "ft4": {"pooling", "blocks"},
        "full": {"pooling", "blocks"},
        "lora": {"adapter_a", "adapter_b", "pooling"},
        "lora_plus": {"adapter_a", "adapter_b", "pooling"},
        "dora": {"adapter_a", "adapter_b", "magnitude", "pooling"},
        "mtlora": {"adapter_a", "adapter_b", "magnitude", "pooling"},
    }
    balance = {"log_var"} if "+" in tasks else set()
    assert groups == {"frozen", "heads"} | balance | trained[row]


def test_the_dora_row_has_the_thesis_adapters(thesis):
    run = parts_of(thesis, "method=dora")
    counts = by_group(build.abstract_params(run.config, run.model), run.groups)
    adapters = ("adapter_a", "adapter_b", "magnitude", "pooling")
    assert sum(counts[group] for group in adapters) == 26_179_584
    assert counts["heads"] == 3_173_394 and counts["log_var"] == 3


def test_an_epoch_has_the_thesis_draws(thesis):
    for tasks, rows in (
        ("age+gender+emotion", 238_959),
        ("age", 136_747),
        ("gender", 168_362),
        ("emotion", 9_215),
    ):
        config = thesis.get_config(f"tasks={tasks},batch_size=1,epochs=1")
        assert config.train.steps == rows


def test_sets_without_a_label_of_the_tasks_are_left_out(thesis):
    assert thesis.get_config("tasks=emotion").data.train == ("rafdb/train",)
    assert thesis.get_config("tasks=age").data.train == ("fairface/train", "lagenda/train")


def test_lora_plus_has_a_rate_apart_for_b(thesis):
    plus, plain = (thesis.get_config(f"method={m}").optimizer.rates for m in ("lora_plus", "lora"))
    assert plus.adapter_b == pytest.approx(6e-5) and plain.adapter_b == plus.adapter_a == 1e-5


@pytest.mark.parametrize(
    "bad", ["method=foo", "method=zs", "tasks=age+age", "tasks=race", "rank=3", "method", "epochs=0"]
)
def test_bad_arguments_are_told(thesis, bad):
    with pytest.raises(ValueError, match=r"expected|one of|any of|not trained|integer"):
        thesis.get_config(bad)
