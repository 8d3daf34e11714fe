"""Tells before anyone pays whether a run fits on given chips, and how fast it could be at best.

Compiles the real train step with the real compiler; for TPUs none is needed, only the extra `tpu`.

python scripts/plan.py --config=configs/thesis.py:method=lora --topology=v5e:2x4
python scripts/plan.py --config=configs/thesis.py --topology=v6e:2x4 --table --remat=none,full
"""

import dataclasses
import os
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from softbio_jax import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "local", "local, or chips as v4:2x2x4, v5e:4x4, v5p:4x4x4, v6e:2x4, 7x:2x2x1."
)
_TABLE = flags.DEFINE_bool("table", False, "Look for the largest batch of each remat policy.")
_REMAT = flags.DEFINE_list("remat", [], "Policies of the table; all by default.")
flags.mark_flag_as_required("config")


def main(argv: Sequence[str]) -> int:
    del argv
    if _TOPOLOGY.value != "local":
        # With libtpu installed JAX would look for a TPU on this machine, for minutes.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from softbio_jax.models.stack import REMAT_POLICIES
    from softbio_jax.planning import fit, table
    from softbio_jax.train import build

    config = build.config_from(_CONFIG.value.to_dict())
    devices, chip = fit.devices_of(_TOPOLOGY.value)
    if not _TABLE.value:
        found = fit.fit(config, devices, chip)
        print(table.details(found))
        print(table.verdict(found, topology=_TOPOLOGY.value))
        return 0 if found.fits else 1
    rows: list[fit.Fit] = []
    for policy in _REMAT.value or REMAT_POLICIES:
        compute = dataclasses.replace(config.compute, remat=policy)
        rows += fit.largest(dataclasses.replace(config, compute=compute), devices, chip)
        print(table.rows(rows[-2:]), flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
