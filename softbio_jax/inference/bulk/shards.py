"""Files divided among tables, and tables among processes, so that the tables do not depend on either."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from softbio_jax.errors import UserError

_NAMED = re.compile(r"rows-(\d{5})-of-(\d{5})(\.\w+)+")


def divided(names: Sequence[str], *, shards: int, every: int) -> list[list[str]]:
    """Returns the names of every shard: blocks of `every` consecutive names go to the shards in turn.

    >>> divided("abcdefg", shards=2, every=2)
    [['a', 'b', 'e', 'f'], ['c', 'd', 'g']]
    """
    found: list[list[str]] = [[] for _ in range(shards)]
    for start in range(0, len(names), every):
        found[start // every % shards] += names[start : start + every]
    return found


def tables(folder: pathlib.Path, *, shards: int, form: str, processes: int = 1) -> list[pathlib.Path]:
    """Returns the table of every shard, rows-00000-of-00008.csv and so on.

    Raises:
      UserError: the folder has tables of another number of shards, or is a file, or a process has no shard.
    """
    if shards < processes:
        what, fix = "fewer shards than processes", f"pass --shards={processes} or more"
        raise UserError(what, where="--shards", expected=f"at least {processes}", found=str(shards), fix=fix)
    if folder.exists() and not folder.is_dir():
        what, fix = "the output is a file", "name a folder, or omit --shards"
        raise UserError(what, where=str(folder), expected="a folder of tables", found="a file", fix=fix)
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        named = _NAMED.fullmatch(path.name)
        if named and int(named[2]) != shards:
            raise UserError(
                "the output holds something else",
                where=str(path),
                expected=f"tables of {shards} shards",
                found=f"one of {int(named[2])}",
                fix=f"pass --shards={int(named[2])}, or name another --out",
            )
    return [folder / f"rows-{shard:05d}-of-{shards:05d}.{form}" for shard in range(shards)]
