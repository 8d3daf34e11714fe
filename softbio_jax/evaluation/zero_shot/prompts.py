"""Prompts per task and class, from a registered set or from a JSON file of the same form."""

import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.registry import Registry
from softbio_jax.tasks import TASKS, TaskSpec

PROMPTS = Registry[Traversable]("prompt set", where="--prompts", group="softbio_jax.prompts")
# The official templates for facial expressions.
PROMPTS.add("fer2013", importlib.resources.files(__package__) / "prompt_sets" / "fer2013.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """What each class is called: `tasks[task][c]` are the texts of class c, in label order."""

    name: str
    tasks: Mapping[str, tuple[tuple[str, ...], ...]]

    def texts(self) -> list[str]:
        """Returns all texts, task by task and class by class."""
        return [text for classes in self.tasks.values() for texts in classes for text in texts]


def load_prompts(source: str) -> Prompts:
    """Reads a set of prompts.

    Args:
      source: a name in `PROMPTS`, or a JSON file: task -> `templates`, texts in which {} stands
        for the class, and `names`, class -> what replaces it.

    Returns:
      The prompts of the tasks in the file, in the order of `TASKS`.

    Raises:
      UserError: no such file, not JSON, an unknown task, a template without {}, or classes that
        are not exactly the task's.
    """
    content = _read(source)
    unknown = sorted(set(content) - set(TASKS))
    if unknown or not content:
        known, found = " or ".join(TASKS), ", ".join(unknown) or "none"
        raise UserError("unknown task in prompts", where=source, expected=known, found=found, fix="rename it")
    tasks = {
        name: _expand(content[name], spec, where=f"{source}: {name}")
        for name, spec in TASKS.items()
        if name in content
    }
    return Prompts(name=source if source in PROMPTS else pathlib.Path(source).stem, tasks=tasks)


def _read(source: str) -> dict[str, Any]:
    try:
        path = PROMPTS[source] if source in PROMPTS else pathlib.Path(source)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = f"{', '.join(PROMPTS)} or a JSON file"
        raise UserError("no such prompts", where=source, expected=known, fix="correct the path") from error
    except ValueError as error:  # not JSON, or not UTF-8
        fix = "correct the file"
        raise UserError("prompts are not JSON", where=source, found=str(error), fix=fix) from error
    if not isinstance(content, dict):
        found, fix = type(content).__name__, "correct the file"
        expected = "an object: task -> prompts"
        raise UserError("bad prompts", where=source, expected=expected, found=found, fix=fix)
    return content


def _expand(entry: Any, task: TaskSpec, *, where: str) -> tuple[tuple[str, ...], ...]:
    templates, names = _templates_and_names(entry, where=where)
    if set(names) != set(task.classes):
        missing = [name for name in task.classes if name not in names]
        extra = [name for name in names if name not in task.classes]
        expected, found = ", ".join(task.classes), f"missing {missing}, unknown {extra}"
        fix = "name exactly the task's classes"
        raise UserError("prompts for other classes", where=where, expected=expected, found=found, fix=fix)
    # In the order of the task's labels, not of the file.
    return tuple(tuple(text.replace("{}", names[name]) for text in templates) for name in task.classes)


def _templates_and_names(entry: Any, *, where: str) -> tuple[list[str], dict[str, str]]:
    match entry:
        case {"templates": [_, *_] as templates, "names": dict() as names} if (
            len(entry) == 2
            and all(isinstance(text, str) and text.count("{}") == 1 for text in templates)
            and all(isinstance(name, str) for name in names.values())
        ):
            return templates, names
    raise UserError(
        "prompts of another form",
        where=where,
        expected='{"templates": [texts with one {} each], "names": {class: text}}',
        found=json.dumps(entry)[:80],
        fix="see softbio_jax/evaluation/zero_shot/prompt_sets/fer2013.json",
    )
