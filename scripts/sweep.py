"""Trains heads on cached features at many learning rates and weight decays at once.

python scripts/sweep.py --config=configs/thesis.py:method=lp --workdir=runs/sweep \
    --rates=1e-4,3e-4,1e-3,3e-3,1e-2 --decays=0,1e-4,1e-2

Prints the validation loss of every pair and writes sweep.json and sweep.csv. Test sets are not read.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from softbio_jax import command
from softbio_jax.console import Console
from softbio_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results and the cached features.")
_RATES = flags.DEFINE_list(
    "rates", ["1e-4", "3e-4", "1e-3", "3e-3", "1e-2"], "Peak learning rates of the heads."
)
_DECAYS = flags.DEFINE_list("decays", ["0", "1e-4", "1e-3", "1e-2", "1e-1"], "Weight decays.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.runs import build
    from softbio_jax.runs.data import open_all
    from softbio_jax.train.probing import sweep

    rates, decays = _numbers("rates", _RATES.value), _numbers("decays", _DECAYS.value)
    run = build.build(_CONFIG.value.to_dict())
    workdir = pathlib.Path(_WORKDIR.value)
    trials = sweep.sweep(
        run, open_all(run.config.data), workdir, rates=rates, decays=decays, console=Console()
    )
    print(sweep.text(trials))
    print(f"wrote {workdir}/sweep.json, {workdir}/sweep.csv")


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
    command.run(main)
