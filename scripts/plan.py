"""Shows whether a run fits given chips, and an upper bound of its speed, before it starts.

Compiles the real train step with the real compiler; for TPUs this needs only the extra `tpu`.

python scripts/plan.py --config=configs/thesis.py:method=lora --topology=v5e:2x4
python scripts/plan.py --config=configs/thesis.py --topology=v6e:2x4 --table --remat=none,full
python scripts/plan.py --config=configs/thesis.py --topology=v6e:2x4 --table --rows=1,8,64
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from softbio_jax import command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "local", "local, or chips such as v4:2x2x4, v5e:4x4, v5p:4x4x4, v6e:2x4, 7x:2x2x1."
)
_TABLE = flags.DEFINE_bool("table", False, "Print one row per remat policy and batch size.")
_REMAT = flags.DEFINE_list("remat", [], "Remat policies of the table; default: all.")
_ROWS = flags.DEFINE_list(
    "rows", [], "Rows per chip in the table; default: the largest number that fits and the next are searched."
)
_GRANULARITY = flags.DEFINE_integer(
    "granularity", 1, "The search tries multiples of this number of rows per chip.", lower_bound=1
)
_EPOCH_IMAGES = flags.DEFINE_integer(
    "epoch_images",
    0,
    "Images per epoch; 0: the prepared training rows, or those of four public data sets.",
    lower_bound=0,
)
_OUT = flags.DEFINE_string("out", "", "JSON file of rows; rows that it holds are not compiled again.")
flags.mark_flag_as_required("config")
flags.register_validator(
    "rows",
    lambda rows: all(count.isdigit() and int(count) for count in rows),
    message="expected whole numbers of at least 1, as in --rows=1,8,64",
)


_ONE, _SEARCH, _GIVEN = "no --table", "--table", "--table with --rows"
_READERS = {"remat": [_SEARCH, _GIVEN], "rows": [_GIVEN], "granularity": [_SEARCH]}


def main(argv: Sequence[str]) -> int:
    del argv
    command.refuse_ignored(_ONE if not _TABLE.value else _GIVEN if _ROWS.value else _SEARCH, _READERS)
    if _TOPOLOGY.value != "local":
        # With libtpu installed JAX would look for a TPU on this machine, for minutes.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from softbio_jax.models.blocks import REMAT_POLICIES
    from softbio_jax.planning import fit, search, table
    from softbio_jax.planning.saved import SavedRows, versions
    from softbio_jax.planning.topology import devices_of
    from softbio_jax.runs import config as config_lib

    config = config_lib.config_from(_CONFIG.value.to_dict())
    devices, chip = devices_of(_TOPOLOGY.value)
    config = config_lib.resolve_dtype(config, devices)
    saved = SavedRows(pathlib.Path(_OUT.value) if _OUT.value else None)
    images, source = _EPOCH_IMAGES.value, "--epoch_images"
    if not images:
        images, source = fit.epoch_images(config.data)

    compiled: list[fit.Fit] = []

    def fit_with(batch_size: int, remat: str) -> fit.Fit:
        changed = dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, batch_size=batch_size),
            compute=dataclasses.replace(config.compute, remat=remat),
        )
        found = saved.get(changed, _TOPOLOGY.value)
        if found is None:
            found = fit.fit(changed, devices, chip)
            saved.add(changed, _TOPOLOGY.value, found)
        compiled.append(found)
        if _TABLE.value:
            print(table.row(found, epoch_images=images), flush=True)
        return found

    print(
        f"{config.model.variant}, method {config.method['name']}, {config.compute.dtype}, "
        f"on {_TOPOLOGY.value} ({versions()}); an epoch has {images:,} images ({source})"
    )
    if config.train.cache_features:
        print(table.CACHED)
    if not _TABLE.value:
        found = fit_with(config.train.batch_size, config.compute.remat)
        print(table.details(found, epoch_images=images))
        print(table.verdict(found, topology=_TOPOLOGY.value))
        return 0 if found.fits else 1

    print(table.HEADER)
    microbatches = config.train.microbatches
    policies = _REMAT.value or REMAT_POLICIES

    def fit_rows(remat: str, rows: int) -> fit.Fit:
        return fit_with(rows * len(devices) * microbatches, remat)

    refusals: list[search.NothingFitsError] = []
    if _ROWS.value:
        tried = [fit_rows(remat, int(rows)) for remat in policies for rows in _ROWS.value]
    else:
        tried, refusals = search.largest_of_each(
            policies,
            fit_rows,
            granularity=_GRANULARITY.value,
            guess=lambda remat: saved.largest_rows(_TOPOLOGY.value, remat) // microbatches,
        )
    verdicts = [table.verdict(found, topology=_TOPOLOGY.value) for found in tried]
    print(*refusals, *verdicts, *filter(None, [table.highest_bound(compiled)]), sep="\n")
    return 0


if __name__ == "__main__":
    command.run(main)
