"""Task averages and the overall average, by the thesis' rule."""

from collections.abc import Collection, Mapping

from softbio_jax.tasks import TASKS

# VGGFace2's ages are a model's output; the thesis leaves them out of the age average. The demo's
# rendered stand-in follows it.
THESIS_SYNTHETIC_LABELS: Mapping[str, tuple[str, ...]] = {
    "vggface2": ("age",),
    "synthetic_vggface2": ("age",),
}

# The thesis' gender average is over UTKFace, FairFace and VGGFace2, though these label it too.
NOT_AVERAGED: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("raf_db", "rafdb", "synthetic_raf_db", "celeba_hq"), ("gender",)
)


def task_averages(
    accuracies: Mapping[str, Mapping[str, float]], *, synthetic_labels: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Averages accuracies over test sets, then over tasks, each without weights.

    A_t = mean over the test sets with task t whose labels are not synthetic and which
    `NOT_AVERAGED` does not name; overall = mean of the A_t. Test sets count equally whatever their
    size.

    Args:
      accuracies: test set -> task -> accuracy (any unit).
      synthetic_labels: test set -> tasks left out there; `THESIS_SYNTHETIC_LABELS` for the
        thesis' test sets, an empty mapping where every label is a person's.

    Returns:
      Task -> average for every task with a test set, and `overall`; empty if there is none.

    Source: the caption of the thesis' zero-shot means and the averages of its Table 4.11.
    """
    names = averaged_sets(accuracies, synthetic_labels=synthetic_labels)
    averages = {
        task: sum(accuracies[name][task] for name in sets) / len(sets) for task, sets in names.items()
    }
    if averages:
        averages["overall"] = sum(averages.values()) / len(averages)
    return averages


def averaged_sets(
    accuracies: Mapping[str, Mapping[str, float]], *, synthetic_labels: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """Returns task -> the test sets that its average is taken over; same arguments."""
    sets = {
        task: [
            name
            for name, figures in accuracies.items()
            if task in figures
            and task not in synthetic_labels.get(name, ())
            and task not in NOT_AVERAGED.get(name, ())
        ]
        for task in TASKS
    }
    return {task: names for task, names in sets.items() if names}
