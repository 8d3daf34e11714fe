"""Prints the counts of a composite training set, and of its sampler, beside the thesis' tables.

python scripts/composite.py --data=FAIRFACE,LAGENDA,CELEBA_HQ,RAFDB [--out=DIR]
python scripts/composite.py --margins          (label tables with the thesis' exact margins)
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from softbio_jax import command, files
from softbio_jax.errors import UserError

_DATA = flags.DEFINE_list("data", [], "Prepared data sets; their split train is split again.")
_MARGINS = flags.DEFINE_bool("margins", False, "Use the thesis' margins instead of data.")
_SEED = flags.DEFINE_integer("seed", 2025, "Seed of the split and of the repeated rows.")
_VAL_FRACTION = flags.DEFINE_float("val_fraction", 0.2, "Validation share of each set.")
_OUT = flags.DEFINE_string("out", None, "A folder for composite.txt and composite.png.")


_READERS = {"val_fraction": ["--data"]}


def main(_: Sequence[str]) -> None:
    from softbio_jax.data import sources
    from softbio_jax.tasks import TASKS
    from softbio_jax.thesis import composite

    if bool(_DATA.value) == _MARGINS.value:
        raise UserError(
            "nothing to compare", where="--data", expected="--data or --margins", fix="pass one of them"
        )
    out = files.local(_OUT.value, what="a composite's table") if _OUT.value else None
    command.refuse_ignored("--margins" if _MARGINS.value else "--data", _READERS)
    if _MARGINS.value:
        labels = composite.labels()
        print(f"label tables with the thesis' margins: {len(labels['gender']):,} rows\n")
    else:
        sets = [sources.open_prepared(directory, "train") for directory in _DATA.value]
        train = sources.split_each(sets, seed=_SEED.value, val_fraction=_VAL_FRACTION.value)[0]
        for full, part in zip(sets, train, strict=True):
            held = len(full) - len(part)
            print(f"{full.name}: {len(full):,} rows, {len(part):,} train, {held:,} val")
        print(f"composite: {sum(map(len, train)):,} train rows (thesis: 168,362)\n")
        labels = {task: sources.concatenate_labels(train, task) for task in TASKS}
    rows = composite.side_by_side(labels, seed=_SEED.value)
    text = composite.as_text(rows)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "composite.txt").write_text(text)
        composite.write_chart(rows, out / "composite.png")
        print(f"wrote {out}/composite.txt and composite.png")


if __name__ == "__main__":
    command.run(main)
