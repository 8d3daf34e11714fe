"""Writes the data of docs/partial_labels.md: FairFace with half of the training ages as ranges.

python scripts/dev/coarsen_ages.py --data=data/fairface

Beside the prepared folder appear data/fairface_rafdb and data/fairface_adience, whose images are copies. The
rows are those that a run of configs/partial_labels.py trains on; its validation rows keep their classes.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command

_DATA = flags.DEFINE_string("data", None, "The prepared folder of FairFace.", required=True)
_OUT = flags.DEFINE_string("out", None, "Where the new folders are written; by default beside it.")
_SEED, _SPLIT_SEED, _VAL_FRACTION = 2026, 2026, 0.2  # of configs/partial_labels.py


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.thesis.study import coarsening

    source = pathlib.Path(_DATA.value)
    out = pathlib.Path(_OUT.value) if _OUT.value else source.parent
    for ranges in coarsening.RANGES:
        folder = out / f"{source.name}_{ranges}"
        found = coarsening.write(
            source, folder, ranges=ranges, seed=_SEED, val_fraction=_VAL_FRACTION, split_seed=_SPLIT_SEED
        )
        print(
            f"{folder}: {found['coarsened']:,} of {found['rows']:,} rows, {found['masked']:,} without a class"
        )


if __name__ == "__main__":
    command.run(main)
