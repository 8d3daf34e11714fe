"""Trains a run, resuming from its newest checkpoint, and evaluates it on its test sets.

python scripts/train.py --config=configs/demo.py --workdir=runs/demo
python scripts/train.py --config=configs/real_faces.py --workdir=runs/faces --config.seed=1
python scripts/train.py --workdir=runs/mine \\
    --config=configs/finetune.py:method=lora,tasks=emotion,train=mine/train,test=mine/test \\
    --config.data.root=data --config.model.pretrained=assets/tiny_demo.safetensors

The last command adapts an encoder to your own data sets, prepared by scripts/prepare_data.py. The text
after the colon is passed to the config file; --config.KEY=VALUE overrides one value of its result.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softbio_jax.train import exits, supervisor

if __name__ == "__main__":  # not in data workers, which import this file too
    # From here on SIGTERM ends the process with a defined exit code. The imports below take seconds.
    _SIGTERM, _SUPERVISED = exits.leave_at_sigterm(), supervisor.adopt()

from absl import flags
from ml_collections import config_flags

from softbio_jax import command

if TYPE_CHECKING:
    from softbio_jax.runs.build import Run

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, local or gs://: checkpoints, metrics, evaluation."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the trained parameters and the cost of a step, without reading data."
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Start JAX's distributed runtime; TPU pods and SLURM need no other flag."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; required with --multihost outside TPU pods and SLURM."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process (0-based); required like --coordinator."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes; required like --coordinator.")
flags.mark_flags_as_required(["config", "workdir"])


_SINGLE, _MANY = "no --multihost", "--multihost"
_READERS = dict.fromkeys(("coordinator", "process_id", "processes"), (_MANY,))


def main(argv: Sequence[str]) -> int:
    del argv
    command.refuse_ignored(_MANY if _MULTIHOST.value else _SINGLE, _READERS)
    if _MULTIHOST.value and not _SUPERVISED:
        return supervisor.supervise(_SIGTERM)
    import jax

    from softbio_jax.interop.reading.locate import check_source
    from softbio_jax.runs import build, parallel
    from softbio_jax.runs.data import open_all
    from softbio_jax.train import loop
    from softbio_jax.train.preemption import Preempted, Preemption

    with contextlib.ExitStack() as stack:
        if _MULTIHOST.value:
            from softbio_jax.train import peers

            parallel.start_distributed(
                coordinator=_COORDINATOR.value, process_id=_PROCESS_ID.value, processes=_PROCESSES.value
            )
            stack.enter_context(peers.watch())
        preemption = stack.enter_context(Preemption())
        run = build.build(_CONFIG.value.to_dict())
        if _DRY_RUN.value:
            _describe(run)
            return 0
        if run.config.model.pretrained:
            check_source(run.config.model.pretrained, of="model.pretrained")  # before any data is read
        if run.has_random_frozen_blocks() and jax.process_index() == 0:
            print(
                "note: frozen encoder blocks keep random weights, since no pretrained checkpoint is named; "
                "fix: --config.model.pretrained=FILE",
                flush=True,
            )
        try:
            loop.train_and_evaluate(run, open_all(run.config.data), _WORKDIR.value, preemption=preemption)
        except Preempted as stop:
            print(stop, file=sys.stderr)
            return exits.EXIT_SAVED
    return 0


def _describe(run: "Run") -> None:
    """Prints the trained parameters and the cost of a step, from shapes only."""
    from softbio_jax.console import as_started
    from softbio_jax.planning import fit, table
    from softbio_jax.planning.topology import devices_of
    from softbio_jax.runs import build

    print(build.describe(run), build.overview(run), sep="\n\n", end="\n\n", flush=True)
    train = run.config.train
    if train.cache_features:
        print(table.CACHED)
    target = devices_of("local")
    found = fit.fit(run.config, *target)
    kind = target.devices[0].device_kind
    print(f"one train step on {len(target.devices)} x {kind}, this machine's devices, as compiled for them:")
    print(table.details(found))
    print(as_started("memory and bounds on other chips: scripts/plan.py --topology=v5e-8"))
    print(table.durations(found, steps=train.steps, validation_steps=train.eval_every))


if __name__ == "__main__":
    command.run(main)
