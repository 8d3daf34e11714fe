"""configs/finetune.py: every method builds with a rate for all it trains, for any tasks."""

import importlib.util
import pathlib

import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import build

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finetune():
    path = ROOT / "configs" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METHODS = ("lp", "ap", "ft4", "full", "lora", "lora_plus", "dora", "mtlora")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_with_a_rate_for_all_it_trains(finetune, method):
    config = finetune.get_config(f"method={method},tasks=emotion,variant=tiny-demo,rate=2e-4")
    run = build.build(config.to_dict())
    trained = set(run.groups.values()) - {"frozen"}
    assert trained <= set(run.config.optimizer.rates)
    assert "log_var" not in trained, "one task has nothing to balance"
    assert run.config.optimizer.rates["heads"] == 2e-4


def test_only_lora_plus_has_a_rate_of_its_own_for_b(finetune):
    rates = {name: finetune.get_config(f"method={name}").optimizer.rates for name in METHODS}
    faster = {name for name, rate in rates.items() if rate["adapter_b"] > rate["adapter_a"]}
    assert faster == {"lora_plus"}


def test_sets_and_tasks_are_joined_by_plus(finetune):
    sets = "train=a/train+b/train,test=a/test"
    config = finetune.get_config(f"tasks=age+emotion,{sets},steps=3,dtype=bfloat16")
    assert (config.tasks, config.data.train, config.data.test) == (
        ("age", "emotion"),
        ("a/train", "b/train"),
        ("a/test",),
    )
    assert config.compute.dtype == "bfloat16"
    assert min(config.train.eval_every, config.train.checkpoint_every) >= 1


@pytest.mark.parametrize(("arguments", "says"), [("mehtod=lp", "key=value"), ("steps=0", "steps is")])
def test_a_mistake_is_told(finetune, arguments, says):
    with pytest.raises(ValueError, match=says):
        finetune.get_config(arguments)


def test_an_unknown_method_is_told_with_those_there_are(finetune):
    config = finetune.get_config("method=lra,tasks=emotion")
    with pytest.raises(UserError, match=r"one of lp, ap, ft, .*found 'lra'; fix: write 'lora'"):
        build.build(config.to_dict())
