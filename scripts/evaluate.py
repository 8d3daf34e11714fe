"""Evaluates a trained run on its test sets: metrics, predictions, confusion matrices.

python scripts/evaluate.py --workdir=runs/demo
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "A run of scripts/train.py.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for eval/; the run's own by default.")
_DATA = flags.DEFINE_string("data", None, "Root of the prepared sets; the run's own by default.")


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.train import restore

    workdir = pathlib.Path(_WORKDIR.value)
    restore.evaluate_run(workdir, out=pathlib.Path(_OUT.value or workdir), data_root=_DATA.value)


if __name__ == "__main__":
    command.run(main)
