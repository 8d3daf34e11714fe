"""The prepared data sets of a run: training rows, validation rows, test sets."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath

from softbio_jax.data import index, pipeline, sampling, sources
from softbio_jax.data.audit import verdict
from softbio_jax.data.sampling import Sampler, Stream
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.runs.build import Parts
from softbio_jax.runs.config import DataConfig
from softbio_jax.tasks import MISSING


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
    train, val = sources.split_each(
        [_open(config.root, entry) for entry in config.train],
        seed=config.split_seed,
        val_fraction=config.val_fraction,
    )
    return RunData(train=train, val=val, test=open_tests(config.root, config.test))


def open_tests(root: str, entries: Sequence[str]) -> list[PreparedDataset]:
    """Opens test sets, given as NAME/SPLIT under root.

    Raises:
      UserError: a set that is not there, or two of one name.
    """
    test = [_open(root, entry) for entry in entries]
    names = [dataset.name for dataset in test]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            "test set named twice",
            where=f"data.test: {repeated[0]}",
            expected="one split of each set",
            fix="drop one",
        )
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
        sampler=sampling.make(**run.config.data.sampler),
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
        f"{dataset.name}/{dataset.split}:{name}" for dataset in data.train for name in dataset.columns["id"]
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
    drawn = sampling.make(**run.config.data.sampler)(data.train, run.config.seed).epoch(0)
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
        raise UserError(
            "bad data entry",
            where=f"data: {entry!r}",
            expected="NAME/SPLIT",
            found=entry,
            fix="write for instance fairface/train",
        )
    return sources.open_prepared(pathlib.Path(epath.Path(root) / name), part)


# Sets that people collected share a few pictures by accident (scripts/audit_data.py lists them);
# a larger share of a test set is a mistake that makes its results worthless.
_MOST_SHARED = 0.05


def check(data: RunData, *, tasks: Sequence[str], batch_size: int) -> None:
    """Raises UserError if a run's data cannot train or judge what it is to learn.

    Args:
      data: its sets.
      tasks: what it learns.
      batch_size: of training.

    Raises:
      UserError: a batch larger than the training set, a task without training labels, a test set
        without labels, or test pictures that are trained on.
    """
    rows = sum(map(len, data.train))
    if batch_size > rows:
        raise UserError(
            "batch larger than the training set",
            where="train.batch_size",
            expected=f"at most {rows:,} rows",
            found=f"{batch_size:,}",
            fix="lower it or name more sets in data.train",
        )
    for task in tasks:
        if not any(_labelled(dataset, task) for dataset in data.train):
            names = ", ".join(dataset.name for dataset in data.train)
            raise UserError(
                f"no training labels for {task}",
                where="data.train",
                expected=f"a set with {task}",
                found=names,
                fix=f"name one, or drop {task} from tasks",
            )
    for dataset in data.test:
        if not any(_labelled(dataset, task) for task in tasks):
            raise UserError(
                "a test set without labels of the tasks",
                where=_entry(dataset),
                expected=" or ".join(tasks),
                found=", ".join(t for t in dataset.labels if _labelled(dataset, t)) or "no label",
                fix="drop it from data.test",
            )
    trained = _digests((*data.train, *data.val))
    for dataset in data.test:
        shared = np.isin(_digests([dataset]), trained)
        if shared.mean() > _MOST_SHARED:
            first = dataset.columns["id"][np.flatnonzero(shared)[0]]
            raise UserError(
                "test pictures are trained on",
                where=_entry(dataset),
                expected="pictures that data.train does not hold",
                found=f"{shared.sum():,} of {len(shared):,} that it holds, bit for "
                f"bit, the first {str(first)!r}",
                fix="test on another split, or prepare one without them (scripts/audit_data.py lists them)",
            )


def _labelled(dataset: PreparedDataset, task: str) -> bool:
    return task in dataset.labels and bool((dataset.labels[task] != MISSING).any())


def _entry(dataset: PreparedDataset) -> str:
    return f"data.test: {dataset.name}/{dataset.split}"


def _digests(datasets: Sequence[PreparedDataset]) -> np.ndarray:
    """Returns the SHA-256 of every picture, (N,) of 32 opaque bytes each."""
    parts = [np.zeros((0, 32), np.uint8)]
    for dataset in datasets:
        whole = index.read(pathlib.Path(dataset.directory), dataset.split).digests
        parts.append(whole[dataset.records])
    return np.ascontiguousarray(np.concatenate(parts)).view("V32").reshape(-1)
