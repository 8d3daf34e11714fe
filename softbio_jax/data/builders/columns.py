"""Which column of a table has which role: as named on the command line, or guessed from its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from softbio_jax.data.builders.words import LabelReader
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, EMOTION, GENDER, MISSING, TASKS

ROLES = ("path", "split", *TASKS)
_TAKEN = ("id", "image")  # features of every record
# role -> the names of its column, as `_plain` writes them
_NAMES = {
    "path": "path file filename file_name filepath file_path image img image_path img_path image_name"
    " img_name image_file image_filename image_id imagepath imgpath photo photo_path picture full_path",
    "split": "split usage partition subset phase part",
    "identity": "identity identity_id subject subject_id person person_id user_id celebrity",
    "race": "race ethnicity",
    AGE.name: "age ages age_group agegroup age_range age_bin age_class age_category age_label",
    GENDER.name: "gender genders sex gender_label gender_class male is_male female is_female",
    EMOTION.name: "emotion emotions expression facial_expression facial_emotion emotion_label"
    " expression_label emotion_class",
}
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names.split()}
_GENERIC = ("label", "labels", "class", "class_name", "classname", "category", "target")
_YES, _NO = ("1", "true", "yes"), ("0", "-1", "false", "no")


def resolve(
    given: Mapping[str, str],
    header: Sequence[str],
    *,
    samples: Callable[[str], Sequence[str]],
    values: Mapping[str, str] | None,
    where: str,
    images: str = "",
) -> dict[str, str]:
    """Returns role -> column: those given, and by their names those that no given one settles.

    The roles are path, split and the tasks; any other is an audit column. Without `given`, identity
    and race are audit columns where a column has such a name. A column called label belongs to the task
    that all its words are classes of.

    Args:
      given: role -> column.
      header: the names of all columns.
      samples: column -> some of its words.
      values: the user's words, "{task}:{word}" -> class.
      where: the table, for messages.
      images: the column that holds the images, where the table shows that.

    Raises:
      UserError: no column for the path or a task, or two that may be meant.
    """
    roles = dict(given)
    if "image" in roles and "path" not in roles:
        roles["path"] = roles.pop("image")
    guessed = _guess(header, where=where, unless=roles, images=images)
    if not roles:
        roles = dict(guessed)
    elif "path" not in roles and "path" in guessed:
        roles["path"] = guessed["path"]
    if not roles.keys() & TASKS.keys():
        roles |= {task: column for task, column in guessed.items() if task in TASKS}
    if not roles.keys() & TASKS.keys():
        roles |= _labelled(header, samples, values)
    if "path" not in roles or not roles.keys() & TASKS.keys():
        raise UserError(
            "the columns are not named",
            where="--columns",
            expected="path and at least one of " + ", ".join(TASKS),
            found=f"{', '.join(given) or 'nothing'}; {where} has {', '.join(filter(None, header))}",
            fix="for example --columns=path=file,age=age_group,gender=sex",
        )
    for role in _TAKEN:
        if role in roles:
            raise UserError(f"the name {role!r} is taken", where="--columns", fix="give it another name")
    return roles


def splits_of(words: Collection[str], *, where: str) -> tuple[str, ...]:
    """Returns the splits that the words of a column name, in order.

    Raises:
      UserError: no word, or two that differ in case alone.
    """
    seen: dict[str, str] = {}
    for split in sorted(words):
        what, expected, found = "", "a word such as train", repr(split)
        if not split.replace("_", "").isalnum():
            what = "not a split's name"
        elif (other := seen.setdefault(split.casefold(), split)) != split:
            what, expected = "splits that differ in case alone", "one name for each split"
            found = f"{other!r} and {split!r}"
        if what:
            fix = "correct the rows, or name the column of the splits in --columns"
            raise UserError(what, where=where, expected=expected, found=found, fix=fix)
    return tuple(seen.values())


def looks_labelled(header: Sequence[str]) -> bool:
    """Returns whether some column of a table is called like a path, and another like a task or a label."""
    plain = {_plain(column) for column in header}
    roles = {_ROLE_OF.get(name) for name in plain}
    return "path" in roles and bool(roles & TASKS.keys() or plain & set(_GENERIC))


def yes_or_no(column: str) -> dict[str, str]:
    """Returns the words of a column that is called male or female: 1 and true say that it is so."""
    name = _plain(column).removeprefix("is_")
    classes = {"male": ("male", "female"), "female": ("female", "male")}
    if name not in classes:
        return {}
    yes, no = classes[name]
    return dict.fromkeys(_YES, yes) | dict.fromkeys(_NO, no)


def _guess(header: Sequence[str], *, where: str, unless: Mapping[str, str], images: str) -> dict[str, str]:
    guessed = {"path": images} if images and "path" not in unless else {}
    free = [column for column in header if column not in unless.values()]
    for column in free:
        role = _ROLE_OF.get(_plain(column), "")
        if not role or role in unless or (role == "path" and images):
            continue
        wanted = not unless or role == "path" or (role in TASKS and not unless.keys() & TASKS.keys())
        if role in guessed and wanted:
            raise UserError(
                f"two columns that may be the {role}",
                where=where,
                expected="one of them",
                found=f"{guessed[role]!r} and {column!r}",
                fix=f"name it: --columns={role}={guessed[role]},... with every other column to read",
            )
        guessed.setdefault(role, column)
    return guessed


def _labelled(
    header: Sequence[str], samples: Callable[[str], Sequence[str]], values: Mapping[str, str] | None
) -> dict[str, str]:
    """Returns the task of a column called label or class whose words belong to one task alone."""
    for column in header:
        if _plain(column) not in _GENERIC:
            continue
        words = set(samples(column))
        tasks = [task for task in TASKS if _all_known(task, words, values)]
        if len(tasks) == 1:
            return {tasks[0]: column}
    return {}


def _all_known(task: str, words: set[str], values: Mapping[str, str] | None) -> bool:
    own = {key: name for key, name in (values or {}).items() if key.startswith(f"{task}:")}
    reader = LabelReader((task,), values=own, age_values="class")
    labels = [reader.label(task, word) for word in words]
    known = [
        label is not None or reader.left_out(task, word) for label, word in zip(labels, words, strict=True)
    ]
    return all(known) and any(label != MISSING for label in labels)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
