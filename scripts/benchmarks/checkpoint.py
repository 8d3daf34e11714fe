"""Measures the share of the digests in the time of saving a checkpoint.

python scripts/benchmarks/checkpoint.py --megabytes=300 --folder=/tmp
"""

import shutil
import statistics
import tempfile
from collections.abc import Sequence

from absl import flags

from softbio_jax import command

_MEGABYTES = flags.DEFINE_integer(
    "megabytes", 300, "Size of the state; 26 M parameters and their two moments have 312."
)
_SAVES = flags.DEFINE_integer("saves", 9, "Number of timed saves, after an untimed one.")
_FOLDER = flags.DEFINE_string("folder", None, "Parent of a temporary folder for the saves.")


def main(argv: Sequence[str]) -> None:
    del argv
    import jax

    from softbio_jax.checkpoints.manager import CheckpointManager

    block = (24, 1024, 16)  # adapters of one projection in 24 blocks, 1.6 MB
    count = max(_MEGABYTES.value * 10**6 // (4 * 24 * 1024 * 16), 1)
    state = {
        f"leaf_{i}": jax.random.normal(key, block)
        for i, key in enumerate(jax.random.split(jax.random.key(0), count))
    }
    jax.block_until_ready(state)
    folder = tempfile.mkdtemp(dir=_FOLDER.value)
    rows = []
    try:
        manager = CheckpointManager(folder, keep=1, base="0" * 64)
        for step in range(_SAVES.value + 1):
            before = dict(manager.seconds)
            manager.save(step, state, {})
            manager.wait()
            rows.append({name: manager.seconds[name] - before[name] for name in before})
        manager.close()
    finally:
        shutil.rmtree(folder)
    saves = [row["save"] for row in rows[1:]]
    shares = [row["digest"] / row["save"] for row in rows[1:]]
    size = sum(leaf.nbytes for leaf in state.values()) / 1e6
    print(
        f"{size:.0f} MB in {count} leaves: saving {statistics.median(saves):.3f} s, of it "
        f"digests {100 * statistics.median(shares):.1f} % (median of {_SAVES.value} saves; "
        f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %)"
    )


if __name__ == "__main__":
    command.run(main)
