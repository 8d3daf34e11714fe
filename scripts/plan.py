"""Shows whether a run fits given chips, and an upper bound of its speed, before it starts.

Compiles the real train step with the real compiler; for TPUs this needs only the extra `tpu`. If the step
does not fit, it looks for what does: another remat policy, microbatches, a smaller batch.

python scripts/plan.py --config=configs/thesis.py:method=lora --topology=v5e-8
python scripts/plan.py --config=configs/thesis.py --topology=v6e:2x4 --table --remat=none,full
python scripts/plan.py --config=configs/thesis.py --topology=v6e:2x4 --table --rows=1,8,64
python scripts/plan.py --config=configs/thesis.py --topology=v5e-8 --bytes --save=compiled/v5e-8

For a GPU by its name (T4, 2xT4, L4, A100-40GB, H100, RTX4090, ...) it is an estimate: the
weights and moments are exact, the intermediate values as large as on a CPU.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from softbio_jax import command, files

if TYPE_CHECKING:
    from softbio_jax.planning.compiling import Compiler
    from softbio_jax.planning.fit import Fit
    from softbio_jax.planning.saved import SavedRows
    from softbio_jax.runs.config import RunConfig

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/.", lock_config=False, accept_new_attributes=True
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "local",
    "local, or chips as they are rented: v5e-8, v5litepod-16, v5p:4x4x4, 2xT4, A100-40GB.",
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
_WAYS_OUT = flags.DEFINE_bool(
    "ways_out",
    True,
    "If the step does not fit, compile others until one with the same batch, and a batch, fit.",
)
_BYTES = flags.DEFINE_bool(
    "bytes", False, "Also print which operations and lines of the package move the bytes of a chip."
)
_OUT = flags.DEFINE_string("out", "", "JSON file of rows; rows that it holds are not compiled again.")
_SAVE = flags.DEFINE_string(
    "save", "", "Folder in which the compiled step is kept, for scripts/train.py --compiled on these chips."
)
flags.mark_flag_as_required("config")
flags.register_validator(
    "rows",
    lambda rows: all(count.isdigit() and int(count) for count in rows),
    message="expected whole numbers of at least 1, as in --rows=1,8,64",
)


_ONE, _SEARCH, _GIVEN = "no --table", "--table", "--table with --rows"
_READERS = {
    "remat": [_SEARCH, _GIVEN],
    "rows": [_GIVEN],
    "granularity": [_SEARCH],
    "ways_out": [_ONE],
    "bytes": [_ONE],
    "save": [_ONE],
}


def main(argv: Sequence[str]) -> int:
    del argv
    command.refuse_ignored(_ONE if not _TABLE.value else _GIVEN if _ROWS.value else _SEARCH, _READERS)
    if _TOPOLOGY.value != "local":
        # With libtpu installed JAX would look for a TPU on this machine, for minutes.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from softbio_jax.console import Console
    from softbio_jax.planning import fit, table
    from softbio_jax.planning.compiling import Compiler
    from softbio_jax.planning.saved import SavedRows, versions
    from softbio_jax.runs.config import config_from, resolve_dtype

    config, teacher = config_from(_CONFIG.value.to_dict()), None
    if config.distill.teacher:
        from softbio_jax.train.distillation.teacher import load

        config, teacher = load(config)
    folder = _folder()
    saved = SavedRows(files.local(_OUT.value, what="a table of plans") if _OUT.value else None)
    images, source = _EPOCH_IMAGES.value, "--epoch_images"
    if not images:
        images, source = fit.epoch_images(config.data)
    with Compiler(_TOPOLOGY.value, console=Console(), teacher=teacher) as compiler:
        config = resolve_dtype(config, compiler.devices)

        def fit_with(**changes: Any) -> fit.Fit:
            changed = fit.changed(config, **changes)
            found = saved.get(changed, compiler.topology)
            save = folder if changed == config else None  # not of what is tried in its place
            if found is None or (save and found.fits):
                name = f"batch {changed.train.batch_size}, remat {changed.compute.remat}"
                found = compiler.fit(changed, name=f"{name} for {_TOPOLOGY.value}", save=save)
                saved.add(changed, compiler.topology, found)
            return found

        print(
            f"{config.model.variant}, method {config.method['name']}, {config.compute.dtype}, "
            f"on {_TOPOLOGY.value} ({versions()}); an epoch has {images:,} images ({source})"
        )
        if config.train.cache_features:
            print(table.CACHED)
        if _TABLE.value:
            _print_table(fit_with, config, saved, compiler, images)
            return 0
        found = fit_with()
        print(table.details(found, epoch_images=images))
        print(table.verdict(found, topology=_TOPOLOGY.value), flush=True)
        if folder and found.fits:
            print(f"the compiled step is in {folder}: scripts/train.py --compiled={folder}")
        if _BYTES.value and found.fits:
            print(table.by_line(found))
        if not found.fits and _WAYS_OUT.value:
            _print_ways_out(fit_with, config, found)
        return 0 if found.fits else 1


def _folder() -> pathlib.Path | None:
    """Returns the folder of --save, checked before minutes of compiling."""
    if not _SAVE.value:
        return None
    from softbio_jax.errors import UserError
    from softbio_jax.planning import stored
    from softbio_jax.planning.topology import GENERATIONS, resolve

    chips = resolve(_TOPOLOGY.value).partition(":")[0]
    if chips not in (*GENERATIONS, "local"):
        raise UserError(
            "a GPU's program is compiled on the GPU",
            where="--save",
            expected="--topology=local or a TPU slice",
            found=f"--topology={_TOPOLOGY.value}",
            fix="leave --save out, or plan on the GPU's machine with --topology=local",
        )
    folder = files.local(_SAVE.value, what="a compiled step", fix="name a folder on a disk with --save")
    stored.check_folder(folder)
    return folder


def _print_ways_out(fit_with: "Callable[..., Fit]", config: "RunConfig", found: "Fit") -> None:
    """Compiles other ways to compute the batch, and smaller batches, and prints those that fit."""
    from softbio_jax.planning import search, table

    print("looking for what fits (--noways_out to leave it out)", flush=True)
    some = False
    for flags_, way in search.ways_out(config, fit_with, found):
        some = True
        print(f"  {flags_}: {table.verdict(way, topology=_TOPOLOGY.value)}", flush=True)
    if not some:
        print("  none: choose larger chips, or a smaller variant", flush=True)


def _print_table(
    fit_with: "Callable[..., Fit]", config: "RunConfig", saved: "SavedRows", compiler: "Compiler", images: int
) -> None:
    from softbio_jax.models.blocks import REMAT_POLICIES
    from softbio_jax.planning import search, table

    microbatches, chips = config.train.microbatches, len(compiler.devices)
    compiled: list[Fit] = []
    print(table.HEADER)

    def fit_rows(remat: str, rows: int) -> "Fit":
        compiled.append(fit_with(batch_size=rows * chips * microbatches, remat=remat))
        print(table.row(compiled[-1], epoch_images=images), flush=True)
        return compiled[-1]

    policies = _REMAT.value or REMAT_POLICIES
    refusals: list[search.NothingFitsError] = []
    if _ROWS.value:
        tried = [fit_rows(remat, int(rows)) for remat in policies for rows in _ROWS.value]
    else:
        tried, refusals = search.largest_of_each(
            policies,
            fit_rows,
            granularity=_GRANULARITY.value,
            guess=lambda remat: saved.largest_rows(compiler.topology, remat) // microbatches,
        )
    verdicts = [table.verdict(found, topology=_TOPOLOGY.value) for found in tried]
    print(*refusals, *verdicts, *filter(None, [table.highest_bound(compiled)]), sep="\n")


if __name__ == "__main__":
    command.run(main)
