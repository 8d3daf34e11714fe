"""The thesis' training and evaluation protocol, as entries of the package's registries.

`pyproject.toml` declares them as entry points, as a user's own package would: general code finds
them by name and does not import this module.
"""

import importlib.resources
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from softbio_jax.adapters.methods import PLACEMENTS
from softbio_jax.data import sampling
from softbio_jax.data.sampling import Labels
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.ranges import Range
from softbio_jax.tasks import EMOTION, MISSING, TASKS

# The earlier name of MTLoRA's default placement.
PLACEMENT = PLACEMENTS["last_block"]

# One prompt per class, 18 in all, those of the code of 2025; there is no official set for age and
# gender.
PROMPTS = importlib.resources.files(__package__) / "prompts.json"

# VGGFace2's ages are a model's output and do not count. The demo's rendered stand-in follows it.
SYNTHETIC_LABELS = {"vggface2": ("age",), "synthetic_vggface2": ("age",)}
# Gender is averaged over UTKFace, FairFace and VGGFace2, though these label it too.
# Source: the caption of the zero-shot means and the averages of Table 4.11.
NOT_AVERAGED = {name: ("gender",) for name in ("raf_db", "rafdb", "synthetic_raf_db", "celeba_hq")}

EMOTION_SHARE = 0.334


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration (config.json) of an older run with the rule of its averages.

    Runs written before `data.not_averaged` and `data.synthetic_labels` existed followed the
    thesis' rule for all test sets of these names.
    """
    tests = {entry.split("/")[0] for entry in config["data"].get("test", ())}
    added = {
        key: {name: tasks for name, tasks in rule.items() if name in tests}
        for key, rule in (("not_averaged", NOT_AVERAGED), ("synthetic_labels", SYNTHETIC_LABELS))
    }
    return {**config, "data": added | config["data"]}


def sampler(
    datasets: Sequence[PreparedDataset],
    seed: int,
    *,
    emotion_share: Annotated[float, Range(0, 1, below=True)] = EMOTION_SHARE,
    epoch_size: sampling.EpochSize | None = None,
) -> sampling.Sampler:
    """Repeats emotion rows up to a share of the index and weights rows by the mean rule.

    Args:
      emotion_share: the share of emotion rows in the index; 0 repeats none.
      epoch_size: draws per epoch; by default the rows of the index, repetitions included.
    """
    labels = sampling.label_tables(datasets)
    counts = repetitions(labels, seed=seed, emotion_share=emotion_share)
    probabilities = mean_rule(labels, counts, sampling.expected_classes(datasets, labels))
    return sampling.Weighted(probabilities, epoch_size=epoch_size or int(counts.sum()), seed=seed)


def repetitions(labels: Labels, *, seed: int, emotion_share: float = EMOTION_SHARE) -> np.ndarray:
    """Repeats rows with an emotion, chosen at random with replacement, up to a share of the rows.

    n_add = int((f N - n_e) / (1 - f)) further rows for n_e of N rows with an emotion and share f;
    without emotion rows nothing is repeated.

    Returns:
      (N,) int64, the number of times each row is in the index, at least 1.

    Raises:
      UserError: a share outside [0, 1).

    Source: the thesis' training code, for more than one task.
    """
    if not 0 <= emotion_share < 1:
        found, fix = str(emotion_share), "set it between 0 and 1"
        raise UserError("not a share", where="emotion_share", expected="0 <= f < 1", found=found, fix=fix)
    counts = np.ones(len(next(iter(labels.values()))), np.int64)
    rows = np.flatnonzero(labels.get(EMOTION.name, np.full(len(counts), MISSING)) != MISSING)
    added = int((emotion_share * len(counts) - len(rows)) / (1 - emotion_share))
    if len(rows) == 0 or added <= 0:
        return counts
    rng = np.random.Generator(np.random.Philox(seed))
    return counts + np.bincount(rows[rng.integers(len(rows), size=added)], minlength=len(counts))


def mean_rule(
    labels: Labels, counts: np.ndarray, expected: Labels = types.MappingProxyType({})
) -> np.ndarray:
    """Weights a row by the mean, over the tasks it is labelled for, of N_t / (K_t n_c).

    N_t rows of the index (`counts` of `repetitions`) are labelled for task t, n_c of them with the
    row's class c, of K_t. Since gender is nearly balanced, this balances age and emotion about
    half-way. A row of a task in `expected` counts for its classes by their expectation (N, C).

    Returns:
      (N,) float64 probabilities.

    Source: the thesis' training code.
    """
    total, known_tasks = np.zeros(len(counts)), np.zeros(len(counts))
    for task, values in labels.items():
        known, classes = values != MISSING, TASKS[task].num_classes
        if task in expected:
            known = expected[task].any(axis=1)
            in_class = counts @ expected[task]
            total += expected[task] @ (in_class.sum() / (classes * np.maximum(in_class, 1)))
            known_tasks += known
            continue
        in_class = np.bincount(values[known], weights=counts[known], minlength=classes)
        per_class = in_class.sum() / (classes * np.maximum(in_class, 1))
        total[known] += per_class[values[known]]
        known_tasks += known
    return sampling.normalised(counts * total / np.maximum(known_tasks, 1))
