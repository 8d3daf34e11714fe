"""Task averages and the overall average over test sets."""

from collections.abc import Collection, Mapping
from typing import Any

from softbio_jax.tasks import TASKS

Excluded = Mapping[str, Collection[str]]  # test set -> tasks in no average


def excluded_tasks(*rules: Excluded) -> dict[str, list[str]]:
    """Returns the union of several rules.

    >>> excluded_tasks({"vggface2": ("age",)}, {"vggface2": ("gender",), "rafdb": ("gender",)})
    {'vggface2': ['age', 'gender'], 'rafdb': ['gender']}
    """
    names = dict.fromkeys(name for rule in rules for name in rule)
    return {
        name: list(dict.fromkeys(task for rule in rules for task in rule.get(name, ()))) for name in names
    }


def excluded_by(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns what an evaluation (the content of metrics.json) excluded from its averages."""
    averaged = summary["averaged_sets"]
    found = {
        name: [task for task in tasks if name not in averaged.get(task, ())]
        for name, tasks in summary["datasets"].items()
    }
    return {name: tasks for name, tasks in found.items() if tasks}


def averaged_sets(accuracies: Mapping[str, Mapping[str, float]], excluded: Excluded) -> dict[str, list[str]]:
    """Returns task -> the test sets in its average; see `task_averages` for the arguments."""
    found: dict[str, list[str]] = {}
    for task in TASKS:
        for name, tasks in accuracies.items():
            if task in tasks and task not in excluded.get(name, ()):
                found.setdefault(task, []).append(name)
    return found


def task_averages(accuracies: Mapping[str, Mapping[str, float]], excluded: Excluded) -> dict[str, float]:
    """Averages accuracies over test sets, then over tasks, each without weights.

    A_t = mean over the test sets with task t; overall = mean of the A_t. Test sets count equally,
    however many examples they have.

    Args:
      accuracies: test set -> task -> accuracy (any unit).
      excluded: test set -> tasks that do not count there.

    Returns:
      Task -> average for every task with a test set, and `overall`; empty if there is none.
    """
    averages = {
        task: sum(accuracies[name][task] for name in names) / len(names)
        for task, names in averaged_sets(accuracies, excluded).items()
    }
    if averages:
        averages["overall"] = sum(averages.values()) / len(averages)
    return averages
