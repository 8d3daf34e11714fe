"""The prepared data sets of a run: training rows, validation rows, test sets."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath

from softbio_jax import coverage
from softbio_jax.data import index, pipeline, sampling, sources
from softbio_jax.data.decode import Resize
from softbio_jax.data.partial.config import LabelConfig
from softbio_jax.data.partial.years import COLUMNS, Rows, exact_of_test
from softbio_jax.data.sampling import Sampler, Stream
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.runs.config import DataConfig, RunConfig
from softbio_jax.tasks import AGE, MISSING, TASKS

if TYPE_CHECKING:
    from softbio_jax.runs.teacher import Teacher

# Data sets collected from the web share a few images by accident (scripts/audit_data.py lists
# them); a test set that shares more is a mistake, and its results are worthless.
_MAX_SHARED = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
    """The data sets that a run reads."""

    train: list[PreparedDataset]
    val: list[PreparedDataset]
    test: list[PreparedDataset]

    def entries(self) -> Iterator[tuple[str, PreparedDataset]]:
        """Yields (ROLE/NAME/SPLIT, data set) for every set."""
        for role in ("train", "val", "test"):
            for dataset in getattr(self, role):
                yield f"{role}/{dataset.name}/{dataset.split}", dataset


def open_all(config: DataConfig) -> RunData:
    """Opens every prepared set of a run and splits the training sets by seed.

    Raises:
      UserError: a missing set, or two test sets of one name.
    """
    train, val = sources.split_each(
        [_open(config.root, entry) for entry in config.train],
        seed=config.split_seed,
        val_fraction=config.val_fraction,
    )
    train = with_partial_labels(train, config.labels)
    return RunData(train=train, val=val, test=open_tests(config.root, config.test))


def with_partial_labels(train: list[PreparedDataset], labels: LabelConfig) -> list[PreparedDataset]:
    """Returns training sets with the partial and noisy labels that the configuration asks for.

    Raises:
      UserError: a range, votes or noise that are none; names the row.
    """
    if not (labels.partial or labels.noise):
        return train
    from softbio_jax.data.partial import targets

    return [targets.attach(item, labels.kinds(), labels.noise.get(item.name)) for item in train]


def held_out(config: RunConfig, data: RunData) -> list[PreparedDataset]:
    """Returns the validation sets that the trained weights have not seen: none after `optimizer.refit`."""
    return [] if config.optimizer.refit else data.val


def images_per_step(config: RunConfig, data: RunData) -> int:
    """Returns how many training images an optimizer step reads: a batch, or with lbfgs all of them."""
    return sum(map(len, data.train)) if config.optimizer.name == "lbfgs" else config.train.batch_size


def open_tests(root: str, entries: Sequence[str]) -> list[PreparedDataset]:
    """Opens test sets, given as NAME/SPLIT under root.

    Raises:
      UserError: a missing set, or two of one name.
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
    """Returns ROLE/NAME/SPLIT -> SHA-256 of the set's last audit, None where it has none."""
    verdicts = {key: index.load_verdict(dataset.directory) for key, dataset in data.entries()}
    return {key: found["sha256"] if found else None for key, found in verdicts.items()}


def train_batches(config: RunConfig, data: RunData, *, image_size: int) -> pipeline.TrainBatches:
    """Returns this process' endless stream of training batches."""
    return pipeline.train_batches(
        data.train,
        image_size=image_size,
        batch_size=config.train.batch_size,
        seed=config.seed,
        sampler=sampling.make(**config.data.sampler),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tasks=config.tasks,
        workers=config.data.workers,
    )


def eval_batches(
    dataset: PreparedDataset,
    *,
    image_size: int,
    batch_size: int,
    tasks: Sequence[str],
    resize: Resize = "fast",
) -> pipeline.EvalBatches:
    """Returns this process' batches of one pass over a data set."""
    return pipeline.eval_batches(
        dataset,
        image_size=image_size,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tasks=tasks,
        resize=resize,
    )


def example_names(data: RunData, sampler: Sampler, *, step: int, batch_size: int) -> list[str]:
    """Returns NAME/SPLIT:ID of every example in the global batch of an optimizer step (from 1)."""
    rows = Stream(sampler)[np.arange((step - 1) * batch_size, step * batch_size)]
    names = [f"{item.name}/{item.split}:{name}" for item in data.train for name in item.columns["id"]]
    return [names[row] for row in rows]


def sampling_counts(config: RunConfig, data: RunData) -> dict[str, dict[str, list[int]]]:
    """Returns class counts in the training rows and in the sampler's first epoch.

    Returns:
      {task: {"raw": [C], "drawn": [C]}}.
    """
    drawn = sampling.make(**config.data.sampler)(data.train, config.seed).epoch(0)
    counts = {}
    for task in config.tasks:
        labels = sources.concatenate_labels(data.train, task)
        counts[task] = {
            kind: np.bincount(found[found != MISSING], minlength=TASKS[task].num_classes).tolist()
            for kind, found in (("raw", labels), ("drawn", labels[drawn]))
        }
    return counts


def training_images(
    config: RunConfig, data: RunData, teacher: "Teacher | None" = None
) -> coverage.TrainingImages:
    """Returns task -> class -> number of training images that the run's sampler can draw.

    With a teacher, of a class the larger number of its own and of the teacher's images counts; a task of
    which the teacher has no record is left out.
    """
    sampler = sampling.make(**config.data.sampler)(data.train, config.seed)
    drawn = np.ones(sum(map(len, data.train)), bool)
    chances = np.asarray(getattr(sampler, "probabilities", drawn))  # without them, every row is visited
    if chances.shape == drawn.shape:
        drawn = chances > 0
    labels = {task: sources.concatenate_labels(data.train, task) for task in config.tasks}
    images = coverage.count(labels, drawn)
    for task, expected in sampling.expected_classes(data.train, config.tasks).items():
        # A class that partial labels alone may show is trained: its expectation is rounded up.
        rounded = np.ceil(np.round(expected[drawn].sum(axis=0), 6)).astype(int).tolist()
        images[task] = dict(zip(TASKS[task].classes, rounded, strict=True))
    if teacher is None:
        return images
    known = teacher.training_images
    return {
        task: {name: max(count, known[task].get(name, 0)) for name, count in classes.items()}
        for task, classes in images.items()
        if task in known
    }


def label_counts(data: RunData, tasks: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns the full and partial labels, and the rows without one, of the tasks that have targets.

    Returns:
      {task: {"full": n, "partial": n, "none": n}}.
    """
    found = sources.concatenate_targets(data.train, tasks)
    return {task: targets.counts() for task, targets in found.items()}


def label_lines(data: RunData, tasks: Sequence[str]) -> list[str]:
    """Returns `label_counts` as one line per task."""
    return [
        f"{task}: {n['full']:,} full and {n['partial']:,} partial labels, {n['none']:,} rows without one"
        for task, n in label_counts(data, tasks).items()
    ]


def coverage_warnings(data: RunData, images: coverage.TrainingImages) -> list[str]:
    """Returns one line per task about classes without training images, or that test sets lack."""
    tests = {
        f"{item.name}/{item.split}": {
            task: coverage.of_labels(task, item.labels[task]) for task in images if task in item.labels
        }
        for item in data.test
    }
    return coverage.warnings(images, tests)


def check_run(config: RunConfig, data: RunData, *, batch_size: int, taught: bool = False) -> None:
    """Checks a run's data before its first step, see `check`."""
    partial, years = config.data.labels.partial, config.model.head.age == "years"
    check(data, tasks=config.tasks, batch_size=batch_size, partial=partial, years=years, taught=taught)


def check(
    data: RunData,
    *,
    tasks: Sequence[str],
    batch_size: int,
    partial: Sequence[str] = (),
    years: bool = False,
    taught: bool = False,
) -> None:
    """Checks before the first step that the data can train and evaluate every task.

    Args:
      data: the run's data sets.
      tasks: names of the tasks.
      batch_size: of a step.
      partial: the tasks of `data.labels.partial`.
      years: whether the age head has a bin per year.
      taught: whether a teacher replaces labels that are missing.

    Raises:
      UserError: a batch larger than the training set, a task without training labels, partial labels that
        are not partial for the head, validation rows or a test set without labels, or test images that are
        also trained on.
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
    for task in tasks if not taught else ():
        if not any(_labelled(dataset, task) for dataset in data.train):
            raise UserError(
                f"no training labels for {task}",
                where="data.train",
                expected=f"a set with {task}",
                found=", ".join(dataset.name for dataset in data.train),
                fix=f"name one, or drop {task} from tasks",
            )
    if partial:
        from softbio_jax.data.partial.targets import require_partial

        require_partial(data.train, partial, years=years)
    if data.val and not any(_labelled(dataset, task) for dataset in data.val for task in tasks):
        raise UserError(
            "no validation labels",
            where="data.val_fraction",
            expected=f"training sets with labels of {' or '.join(tasks)}",
            found=", ".join(dataset.name for dataset in data.val),
            fix="set it to 0, or name a set with labels in data.train",
        )
    check_tests(data, tasks=tasks)


def check_tests(data: RunData, *, tasks: Sequence[str]) -> None:
    """Checks that the test sets can evaluate a task, and are not what the run was trained on.

    Raises:
      UserError: a test set without labels, with a wrong age, or with images that are also trained on.
    """
    for dataset in data.test:
        if not any(_labelled(dataset, task) for task in tasks):
            labelled = ", ".join(task for task in dataset.labels if _labelled(dataset, task))
            raise UserError(
                "a test set without labels of the tasks",
                where=_entry(dataset),
                expected=" or ".join(tasks),
                found=labelled or "no label",
                fix="drop it from data.test",
            )
        # Ages are evaluated after the last step, too late to correct a cell.
        if AGE.name in tasks and not dataset.columns.keys().isdisjoint(COLUMNS):
            exact_of_test(Rows(dataset.labels, dataset.columns, dataset.columns["id"], _entry(dataset)))
    trained = _digests((*data.train, *data.val))
    for dataset in data.test:
        shared = np.isin(_digests([dataset]), trained)
        if shared.mean() > _MAX_SHARED:
            first = dataset.columns["id"][np.flatnonzero(shared)[0]]
            raise UserError(
                "test images are also trained on",
                where=_entry(dataset),
                expected="images that are not in data.train",
                found=f"{shared.sum():,} of {len(shared):,} byte-identical images, the first {str(first)!r}",
                fix="test on another split, or prepare one without them (scripts/audit_data.py lists them)",
            )


def _open(root: str, entry: str) -> PreparedDataset:
    name, slash, part = entry.rpartition("/")
    if not slash:
        raise UserError(
            "bad data entry",
            where=f"data: {entry!r}",
            expected="NAME/SPLIT",
            found=entry,
            fix="write it as in fairface/train",
        )
    return sources.open_prepared(pathlib.Path(epath.Path(root) / name), part)


def _labelled(dataset: PreparedDataset, task: str) -> bool:
    if task in dataset.targets:
        return bool(dataset.targets[task].known.any())
    return task in dataset.labels and bool((dataset.labels[task] != MISSING).any())


def _entry(dataset: PreparedDataset) -> str:
    return f"data.test: {dataset.name}/{dataset.split}"


def _digests(datasets: Sequence[PreparedDataset]) -> np.ndarray:
    """Returns the SHA-256 of every image, (N,) of 32 opaque bytes each."""
    parts = [np.zeros((0, 32), np.uint8)]
    for dataset in datasets:
        digests = index.read(pathlib.Path(dataset.directory), dataset.split).digests
        parts.append(digests[dataset.records])
    return np.ascontiguousarray(np.concatenate(parts)).view("V32").reshape(-1)
