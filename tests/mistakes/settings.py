"""Mistakes in configurations and in what a run is given. The correct run is built, not trained."""

import copy
import shutil

from softbio_jax.data.prepare import prepare
from softbio_jax.runs import build, data, directory
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import audit_hashes, open_all
from tests.data.trees import make_emotions
from tests.mistakes.running import Mistake
from tests.runs.tiny import changed


def _run(name, *, cause, fix, base=None, override="", **changes):
    """A mistake made by changing the tiny run; `base` holds correct changes."""

    def make(sandbox, wrong):
        config = changed(sandbox.config, **(base or {}))
        if wrong:
            sandbox.config.clear()
            sandbox.config.update(changed(config, **changes))
            return lambda: sandbox.train(*([override] if override else []))
        return lambda: sandbox.call(lambda: _checked(config))

    return Mistake(name=name, make=make, cause=cause, fix=fix)


def _checked(config):
    run = build.build(copy.deepcopy(config))
    given = run.config
    data.check(open_all(given.data), tasks=given.tasks, batch_size=given.train.batch_size)


def _other_workdir(sandbox, wrong):
    run = build.build(sandbox.config)
    (sandbox.tmp / "run").mkdir()
    sets = open_all(run.config.data)
    directory.write_start(run, sets, sandbox.tmp / "run", audits=audit_hashes(sets))
    config = changed(sandbox.config, seed=4) if wrong else sandbox.config
    given = config_from(config)
    if not wrong:
        return lambda: sandbox.call(lambda: directory.check_workdir(given, sandbox.tmp / "run"))
    return lambda: sandbox.train(seed=4)


def _overlap(sandbox, wrong):
    """Two splits of a folder with the same images in both."""
    make_emotions(sandbox.tmp / "raw")
    if wrong:
        for path in (sandbox.tmp / "raw" / "train").rglob("*.png"):
            shutil.copy(path, sandbox.tmp / "raw" / "test" / path.parent.name / path.name)
    prepare.prepare("folder", source=str(sandbox.tmp / "raw"), out=sandbox.tmp / "mine", task="emotion")
    given = {
        "tasks": ("emotion",),
        "data__root": str(sandbox.tmp),
        "data__train": ("mine/train",),
        "data__test": ("mine/test",),
        "data__val_fraction": 0.0,
        # As many as there are rows, for that is a mistake of its own.
        "train__batch_size": 6,
        "mesh": {"fsdp": 1},
    }
    if not wrong:
        return lambda: sandbox.call(lambda: _checked(changed(sandbox.config, **given)))
    return lambda: sandbox.train(**given)


def _memory(sandbox, wrong):
    import jax.numpy as jnp

    # More than a processor can address.
    return lambda: sandbox.call(lambda: jnp.zeros((1 << (46 if wrong else 4),)))


_RATES = {"adapter_b": 1e-3, "heads": 1e-3, "log_var": 1e-3}

MISTAKES = (
    _run(
        "A config key that does not exist",
        train__batchsize=8,
        cause="unknown config key: config.train.batchsize",
        fix="write 'batch_size'",
    ),
    _run(
        "The same on the command line",
        override="--config.train.batchsize=8",
        cause="unknown config key: config.train.batchsize",
        fix="write 'batch_size'",
    ),
    _run(
        "A value of another type",
        train__steps="8",
        cause="bad config value: config.train.steps: expected an integer, found '8'",
        fix="correct",
    ),
    _run(
        "A missing key",
        data={"root": "x"},
        cause="missing config key: config.data.train",
        fix="set it in the config file",
    ),
    _run("A mistyped method", method__name="lorra", cause="unknown method.*'lorra'", fix="write 'lora'"),
    _run(
        "A mistyped variant",
        model__variant="PE-Core-L14-366",
        cause="unknown variant.*'PE-Core-L14-366'",
        fix="write 'PE-Core-L14-336'",
    ),
    _run(
        "A mistyped task", tasks=("age", "gendre"), cause="unknown task.*found 'gendre'", fix="write 'gender'"
    ),
    _run(
        "More blocks to fine-tune than the encoder has",
        method={"name": "ft", "blocks": 99},
        cause="blocks.*tiny-test: expected at most 3, found 99",
        fix="method.blocks",
    ),
    _run(
        "A rank larger than the matrix",
        method__lora__rank=4096,
        cause="encoder/trunk/attn/qkv.*at most 32, found 4096",
        fix="lower lora.rank",
    ),
    _run(
        "An adapter target that matches nothing",
        method__targets=("encoder/trunk/attn/qvk",),
        cause="'encoder/trunk/attn/qvk'.*encoder/trunk/attn/qkv",
        fix="correct",
    ),
    _run(
        "A parameter group without a learning rate",
        optimizer__rates={"adaptor_a": 1e-3, **_RATES},
        cause="optimizer.rates.*none for adapter_a",
        fix="rename 'adaptor_a'",
    ),
    _run(
        "A warm-up longer than the run",
        optimizer__warmup_steps=100,
        cause="optimizer.warmup_steps.*train.steps = 8, found 100",
        fix="shorten|lower",
    ),
    _run(
        "An image size that is not a multiple of the patch size",
        model__image_size=50,
        cause="model.image_size.*a multiple of 8, found 50",
        fix="set it to 48 or 56",
    ),
    _run(
        "A batch that cannot be divided among the devices",
        train__batch_size=12,
        cause="train.batch_size.*multiple of 8 devices.*found 12",
        fix="batch size",
    ),
    _run(
        "Microbatches that do not divide the batch",
        train__microbatches=3,
        cause="8 devices x 3 microbatches = 24, found 16",
        fix="batch size",
    ),
    _run(
        "A batch larger than the training set",
        train__batch_size=512,
        cause="train.batch_size.*at most 54 rows, found 512",
        fix="lower it",
    ),
    _run(
        "A validation fraction that leaves no rows",
        data__val_fraction=0.001,
        cause="data.val_fraction.*0.001 of 40",
        fix="between 0 and 1",
    ),
    _run("Data that was moved", data__root="/moved", cause="/moved/synthetic_fairface", fix="check the path"),
    _run(
        "A split that does not exist",
        data__train=("synthetic_fairface/training",),
        cause="split 'training'.*one of test, train",
        fix="check the path and the split",
    ),
    _run(
        "Testing on the training images",
        data__test=("synthetic_fairface/train",),
        cause="data.test: synthetic_fairface/train.*40 of 40",
        fix="another split",
    ),
    Mistake(
        name="Two splits that overlap",
        make=_overlap,
        cause="data.test: mine/test.*6 of 6",
        fix="another split",
    ),
    _run(
        "A test set without labels of the tasks",
        base={
            "tasks": ("emotion",),
            "data__train": ("synthetic_raf_db/train",),
            "data__test": ("synthetic_raf_db/test",),
        },
        tasks=("emotion",),
        data__train=("synthetic_raf_db/train",),
        data__test=("synthetic_utkface/test",),
        cause="data.test: synthetic_utkface/test: expected emotion",
        fix="drop it",
    ),
    _run(
        "A task without a training label",
        data__train=("synthetic_fairface/train",),
        cause="emotion.*data.train.*found synthetic_fairface",
        fix="drop emotion",
    ),
    Mistake(
        name="A batch too large for the device",
        make=_memory,
        cause="out of device memory",
        fix="lower train.batch_size.*scripts/plan.py",
    ),
    Mistake(
        name="A workdir of another run",
        make=_other_workdir,
        cause="run: .*seed was 3, is 4",
        fix="another --workdir",
    ),
)
