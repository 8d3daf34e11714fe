"""Compares values of configuration keys by validation loss; test sets are not read.

Any method, every combination of the values, each a run of its own:
python scripts/sweep.py --config=configs/finetune.py:method=lora,train=mine/train --workdir=runs/sweep \\
    --over=rates=0.3,1,3 --over=method.lora.rank=4,16

The same by successive halving: the better third of the trials is trained three times as long:
python scripts/sweep.py --config=... --workdir=runs/sweep --over=rates=0.1,0.3,1,3,10 --halving=3

Linear probing on cached features, all pairs in one program:
python scripts/sweep.py --config=configs/thesis.py:method=lp --workdir=runs/sweep \\
    --rates=1e-4,3e-4,1e-3,3e-3,1e-2 --decays=0,1e-4,1e-2

Writes sweep.json and sweep.csv. Started again, it continues: a trial resumes from its checkpoint, and
values that were added are trained beside those that are done.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from softbio_jax import command, files
from softbio_jax.console import Console, as_started
from softbio_jax.errors import UserError
from softbio_jax.train import huge_pages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results and of the trials.")
_OVER = flags.DEFINE_multi_string(
    "over",
    [],
    "KEY=VALUE,VALUE,...: a key of the configuration and its values; `rates` multiplies all rates.",
)
_HALVING = flags.DEFINE_integer(
    "halving", 0, "Factor of successive halving; 0 trains every trial to its end.", lower_bound=0
)
_RATES = flags.DEFINE_list(
    "rates", ["1e-4", "3e-4", "1e-3", "3e-3", "1e-2"], "Without --over: peak learning rates of the heads."
)
_DECAYS = flags.DEFINE_list("decays", ["0", "1e-4", "1e-3", "1e-2", "1e-1"], "Without --over: weight decays.")
flags.mark_flags_as_required(["config", "workdir"])

_ANY, _CACHED = "--over", "no --over"
_READERS = {"halving": (_ANY,), "rates": (_CACHED,), "decays": (_CACHED,)}


def main(argv: Sequence[str]) -> int:
    del argv
    command.refuse_ignored(_ANY if _OVER.value else _CACHED, _READERS)
    workdir = files.local(_WORKDIR.value, what="a sweep")
    if _OVER.value:
        from softbio_jax.train import search
        from softbio_jax.train.preemption import EXIT_SAVED, Preempted, Preemption

        if _HALVING.value == 1:
            what, fix = "bad value", "2 or more, such as 3; 0 trains all trials to their end"
            raise UserError(what, where="--halving", found="1", fix=fix)
        points = search.combinations(search.parse(_OVER.value))
        try:
            with Preemption() as preemption:
                trials = search.search(
                    _CONFIG.value.to_dict(),
                    points,
                    workdir,
                    eta=_HALVING.value,
                    console=Console(),
                    preemption=preemption,
                )
        except Preempted as stop:
            print(stop, file=sys.stderr)
            return EXIT_SAVED
        print(as_started(search.table(trials, workdir)))
    else:
        from softbio_jax.runs import build
        from softbio_jax.runs.data import open_all
        from softbio_jax.train.probing import sweep

        rates, decays = _numbers("rates", _RATES.value), _numbers("decays", _DECAYS.value)
        run = build.build(_CONFIG.value.to_dict())
        pairs = sweep.sweep(
            run, open_all(run.config.data), workdir, rates=rates, decays=decays, console=Console()
        )
        print(sweep.text(pairs))
    print(f"wrote {workdir}/sweep.json, {workdir}/sweep.csv")
    return 0


def _numbers(name: str, values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise UserError(
            "not a number",
            where=f"--{name}",
            expected="comma-separated numbers",
            found=",".join(values),
            fix="write them as in 1e-4,1e-3",
        ) from error


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main)
