"""A folder that holds one configuration takes no other: the fields that differ are named."""

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.params.paths import flatten

_SHOWN = 4


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], *, of: str, where: str,
    free: Collection[str] = (),
) -> None:  # fmt: skip
    """Raises UserError if two configurations differ, naming up to four fields and their values.

    Args:
      before: nested JSON values, as the folder has them.
      now: nested JSON values, as asked for.
      of: what the folder holds: "run", "study".
      where: the folder.
      free: dotted names of fields that may differ.

    >>> check_same({"seed": 0, "model": {"rank": 8}}, {"seed": 0, "model": {"rank": 16}},
    ...            of="run", where="runs/a", free={"seed"})
    Traceback (most recent call last):
    softbio_jax.errors.UserError: workdir holds another run: runs/a: expected the same \
configuration, found model.rank was 8, is 16; fix: take another --workdir, or set the fields back
    """
    was, is_ = _flat(before), _flat(now)
    names = [
        name
        for name in sorted((was.keys() | is_.keys()) - set(free))
        if was.get(name) != is_.get(name)
    ]
    if names:
        shown = ", ".join(
            f"{name} was {reprlib.repr(was.get(name))}, is {reprlib.repr(is_.get(name))}"
            for name in names[:_SHOWN]
        )
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise UserError(f"workdir holds another {of}", where=where,
                        expected="the same configuration", found=shown + more,
                        fix="take another --workdir, or set the fields back")  # fmt: skip


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path.replace("/", "."): value for path, value in flatten(values).items()}
