"""Trains a run, resuming from its newest checkpoint, and evaluates it on its test sets.

python scripts/train.py --config=configs/demo.py --workdir=runs/demo
python scripts/train.py --config=configs/real_faces.py --workdir=runs/faces --config.seed=1
python scripts/train.py --workdir=runs/mine \\
    --config=configs/finetune.py:method=lora,tasks=emotion,train=mine/train,test=mine/test \\
    --config.data.root=data --config.model.pretrained=assets/tiny_demo.safetensors
python scripts/train.py --workdir=runs/longer --init_from=runs/mine --config=...

The third command adapts an encoder to your own data sets, prepared by scripts/prepare_data.py. The text
after the colon is passed to the config file; --config.KEY=VALUE overrides one value
of its result. --init_from=RUN starts a new run from the weights of a trained one.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softbio_jax.train import huge_pages, supervisor
from softbio_jax.train.preemption import EXIT_SAVED, leave_at_sigterm

if __name__ == "__main__":  # not in data workers, which import this file too
    # From here on SIGTERM ends the process with a defined exit code. The imports below take seconds.
    _SIGTERM, _SUPERVISED = leave_at_sigterm(), supervisor.adopt()
    huge_pages.restart()

from absl import flags
from ml_collections import config_flags

from softbio_jax import command

if TYPE_CHECKING:
    from softbio_jax.runs.build import Run
    from softbio_jax.runs.session import CompiledStep

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, local or gs://: checkpoints, metrics, evaluation."
)
_INIT_FROM = flags.DEFINE_string(
    "init_from", "", "Directory of a trained run whose weights a new run starts from."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the trained parameters and the cost of a step, without reading data."
)
_COMPILED = flags.DEFINE_string(
    "compiled", "", "Folder of a compiled step, of scripts/plan.py --save; used if it is this run's."
)
_PROCESSES = command.define_processes()
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> int:
    del argv
    _PROCESSES.refuse_ignored()
    command.refuse_ignored("--dry_run" if _DRY_RUN.value else "no --dry_run", {"compiled": ["no --dry_run"]})
    if _PROCESSES.multihost.value and not _SUPERVISED:
        return supervisor.supervise(_SIGTERM)
    import jax

    from softbio_jax.interop.reading.locate import check_source
    from softbio_jax.runs import build, parallel
    from softbio_jax.runs.config import config_from
    from softbio_jax.runs.data import open_all
    from softbio_jax.train import loop, warm_start
    from softbio_jax.train.preemption import Preempted, Preemption

    with contextlib.ExitStack() as stack:
        if _PROCESSES.multihost.value:
            from softbio_jax.train import peers

            parallel.start_distributed(**_PROCESSES.described())
            stack.enter_context(peers.watch())
        preemption = stack.enter_context(Preemption())
        # Before anything is built: a run, or weights, that are not there.
        source = warm_start.source_of(_WORKDIR.value, _INIT_FROM.value)
        config = warm_start.with_base(config_from(_CONFIG.value.to_dict()), _WORKDIR.value, source)
        if config.model.pretrained and not _DRY_RUN.value:
            check_source(config.model.pretrained, of="model.pretrained")
        run = build.build(config)
        if config.distill.teacher:
            from softbio_jax.train.distillation.teacher import attach

            run = attach(run)
        if _DRY_RUN.value:
            _describe(run)
            return 0
        if run.has_random_frozen_blocks() and jax.process_index() == 0:
            print(
                "note: frozen encoder blocks keep random weights, since no pretrained checkpoint is named; "
                "fix: --config.model.pretrained=FILE",
                flush=True,
            )
        try:
            loop.train_and_evaluate(
                run,
                open_all(run.config.data),
                _WORKDIR.value,
                preemption=preemption,
                init_from=_INIT_FROM.value,
                compiled=_compiled(run) if _COMPILED.value else None,
            )
        except Preempted as stop:
            print(stop, file=sys.stderr)
            return EXIT_SAVED
    return 0


def _compiled(run: "Run") -> "CompiledStep | None":
    """Returns the step of --compiled; prints whether it is used."""
    import jax

    from softbio_jax import files
    from softbio_jax.console import Console
    from softbio_jax.planning import stored

    folder = files.local(_COMPILED.value, what="a compiled step", fix="copy it to a disk")
    found = stored.load(folder, run)
    line = "taken from" if found.step else f"not taken, compiling as usual: {found.why}:"
    Console(active=jax.process_index() == 0).say(f"compiled step: {line} {folder}")
    return found.step


def _describe(run: "Run") -> None:
    """Prints the trained parameters and the cost of a step, from shapes only."""
    from softbio_jax.console import as_started
    from softbio_jax.planning import fit, table
    from softbio_jax.planning.topology import devices_of
    from softbio_jax.runs import build

    print(build.describe(run), build.overview(run), sep="\n\n", end="\n\n", flush=True)
    train = run.config.train
    if run.config.optimizer.name == "lbfgs":
        print("optimizer.name=lbfgs: each image is encoded once, then the heads are solved: no train step")
        return
    if train.cache_features:
        print(table.CACHED)
    target = devices_of("local")
    found = fit.fit(run.config, *target, teacher=run.teacher)
    kind = target.devices[0].device_kind
    print(f"one train step on {len(target.devices)} x {kind}, this machine's devices, as compiled for them:")
    print(table.details(found))
    print(as_started("memory and bounds on other chips: scripts/plan.py --topology=v5e-8"))
    print(table.durations(found, steps=train.steps, validation_steps=train.eval_every))


if __name__ == "__main__":
    command.run(main)
