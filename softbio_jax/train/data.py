"""The prepared data sets of a run: training rows, validation rows, test sets."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath

from softbio_jax.data import pipeline, samplers, sources, split
from softbio_jax.data.audit import verdict
from softbio_jax.data.sampling import Sampler, Stream
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING
from softbio_jax.train.build import Parts
from softbio_jax.train.config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads."""

    train: list[PreparedDataset]
    val: list[PreparedDataset]
    test: list[PreparedDataset]

    def entries(self) -> Iterator[tuple[str, PreparedDataset]]:
        """Yields every set with what it is called in records: ROLE/NAME/SPLIT."""
        for role in ("train", "val", "test"):
            for dataset in getattr(self, role):
                yield f"{role}/{dataset.name}/{dataset.split}", dataset


def open_all(config: DataConfig) -> RunData:
    """Opens every prepared set of a run and splits the training ones by seed.

    Raises:
      UserError: a set that is not there, or two test sets of one name.
    """
    train, val = split.split_each(
        [_open(config.root, entry) for entry in config.train],
        seed=config.split_seed, val_fraction=config.val_fraction,
    )  # fmt: skip
    return RunData(train=train, val=val, test=open_tests(config.root, config.test))


def open_tests(root: str, entries: Sequence[str]) -> list[PreparedDataset]:
    """Opens test sets, given as NAME/SPLIT under root.

    Raises:
      UserError: a set that is not there, or two of one name.
    """
    test = [_open(root, entry) for entry in entries]
    names = [dataset.name for dataset in test]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError("test set named twice", where=f"data.test: {repeated[0]}",
                        expected="one split of each set", fix="drop one")  # fmt: skip
    return test


def audit_hashes(data: RunData) -> dict[str, str | None]:
    """Returns ROLE/NAME/SPLIT -> SHA-256 of the folder's last audit, None where there was none."""
    verdicts = {key: verdict.load(dataset.directory) for key, dataset in data.entries()}
    return {key: found["sha256"] if found else None for key, found in verdicts.items()}


def train_stream(run: Parts, data: RunData) -> pipeline.TrainBatches:
    """Returns this process' endless stream of training batches."""
    return pipeline.train_batches(
        data.train,
        image_size=run.image_size,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
        sampler=samplers.make(**run.config.data.sampler),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tasks=run.config.tasks,
        workers=run.config.data.workers,
    )


def example_names(run: Parts, data: RunData, sampler: Sampler, step: int) -> list[str]:
    """Returns what the examples of an optimizer step's global batch are called: NAME/SPLIT:ID.

    Args:
      run: the parts of the run.
      data: its data sets.
      sampler: of the training rows.
      step: from 1.
    """
    batch = run.config.train.batch_size
    rows = Stream(sampler)[np.arange((step - 1) * batch, step * batch)]
    names = [
        f"{dataset.name}/{dataset.split}:{name}"
        for dataset in data.train
        for name in dataset.columns["id"]
    ]
    return [names[row] for row in rows]


def eval_stream(run: Parts, dataset: PreparedDataset) -> pipeline.EvalBatches:
    """Returns this process' batches of one pass over a data set."""
    return pipeline.eval_batches(
        dataset,
        image_size=run.image_size,
        batch_size=run.config.train.eval_batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tasks=run.config.tasks,
    )


def sampling_counts(run: Parts, data: RunData) -> dict[str, dict[str, list[int]]]:
    """Returns how often each class stands in the training rows and in the sampler's first epoch.

    Returns:
      {task: {"raw": [C], "drawn": [C]}}.
    """
    drawn = samplers.make(**run.config.data.sampler)(data.train, run.config.seed).epoch(0)
    counts = {}
    for task in run.model.tasks:
        labels = sources.concatenate_labels(data.train, task.name)
        counts[task.name] = {
            kind: np.bincount(found[found != MISSING], minlength=task.num_classes).tolist()
            for kind, found in (("raw", labels), ("drawn", labels[drawn]))
        }
    return counts


def _open(root: str, entry: str) -> PreparedDataset:
    name, slash, part = entry.rpartition("/")
    if not slash:
        raise UserError("bad data entry", where=f"data: {entry!r}", expected="NAME/SPLIT",
                        found=entry, fix="write for instance fairface/train")  # fmt: skip
    return sources.open_prepared(pathlib.Path(epath.Path(root) / name), part)
