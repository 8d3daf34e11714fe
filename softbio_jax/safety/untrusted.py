"""JSON files, and bounds on what files of other people may expand to in memory."""

import contextlib
import json
import math
import os
import pathlib
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from softbio_jax.errors import UserError
from softbio_jax.safety import damage

JSON_BYTES = 16 << 20
# Of what an archive expands to: labels and names of many rows compress well, a bomb a thousandfold.
RATIO, ALWAYS = 100, 256 << 20
_MEMBERS, _VIEWS = 100_000, 4


class PixelBudget:
    """Bounds the pixels that all threads of a process hold at a time; others wait."""

    def __init__(self, pixels: int):
        self._total, self._held = pixels, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Holds some pixels, once the budget has them or nobody else holds any. Must not be nested."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._total)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


def read_json(
    path: epath.PathLike, *, wrong: str, fix: str, own: bool = False, finite: bool = True
) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
      path: the file, which exists, local or gs://.
      wrong: what the error says of another content, such as "a damaged report".
      fix: the correction, for the error.
      own: a file that only this package writes, which may have any size and numbers.
      finite: refuse NaN and infinity; otherwise the caller says which value has them.

    Raises:
      UserError: damaged, no JSON object, nested too deeply, or, unless `own`, larger than 16 MiB, a name
        twice in one object, or, if `finite`, a number that is not.
      OSError: the file cannot be read.
    """
    try:
        if own:
            values = json.loads(epath.Path(path).read_bytes())
        else:
            with epath.Path(path).open("rb") as file:
                data = file.read(JSON_BYTES + 1)
            if len(data) > JSON_BYTES:
                raise ValueError(f"more than {JSON_BYTES >> 20} MiB")
            values = json.loads(
                data, object_pairs_hook=_distinct, parse_constant=_not_finite if finite else None
            )
        if not isinstance(values, dict):
            raise TypeError(f"a {type(values).__name__}, not an object")
    except Exception as error:
        of_content = isinstance(error, ValueError | TypeError | RecursionError)  # may quote the file
        if not of_content and (damage.refusal(error) or isinstance(error, FileNotFoundError)):
            raise
        found = "nested too deeply" if isinstance(error, RecursionError) else damage.reason(error)[:200]
        raise UserError(wrong, where=os.fspath(path), found=found, fix=fix) from error
    return values


def check_archive(path: str | os.PathLike[str], *, stored: bool, what: str, fix: str) -> None:
    """Checks what a zip archive declares to expand to; files that are no archive are left alone.

    Args:
      path: the file.
      stored: its writer never compresses, as torch's, so that the members fit into the file.
      what: the kind of file, for the message.
      fix: the correction, for the message.

    Raises:
      UserError: a member that is compressed though `stored`, members that share bytes or declare
        sizes that they do not have, or more than 256 MiB that is also more than 100 times the file.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        # zipfile finds an archive at the end of any file; readers of a plain pickle do not.
        if file.read(4) not in (b"PK\3\4", b"PK\5\6"):
            return
    try:
        problem = _problem(path, size, stored=stored)
    except Exception as error:  # damage, which zipfile and its decompressors report in many ways
        # Other readers might find an archive there; that of numpy is the same.
        problem = f"{type(error).__name__}: {error}" if stored else ""
    if problem:
        raise UserError(f"refused: not the archive of {what}", where=str(path), found=problem, fix=fix)


def tree(values: Any, path: str | os.PathLike[str]) -> Any:
    """Returns what was unpickled from a file, unless containers or tensors repeat one thing too often.

    Args:
      values: nested mappings, lists and tuples of tensors.
      path: the file.

    Raises:
      ValueError: more than 100,000 values, or tensors of more than 4 times the file's size (a tied
        weight is in it once).
    """
    most = _VIEWS * os.path.getsize(path) + (1 << 20)
    left, count, size = [values], 0, 0
    while left:
        value = left.pop()
        count += 1
        with contextlib.suppress(RuntimeError):  # sparse tensors have none; their reader refuses them
            size += getattr(value, "nbytes", 0)
        if count > _MEMBERS or size > most:
            found = f"more than {_MEMBERS:,} values" if count > _MEMBERS else f"tensors of {size:,} bytes"
            raise ValueError(f"more than the file holds: {found}")
        if isinstance(value, Mapping | list | tuple):
            left += list(value.values() if isinstance(value, Mapping) else value)[: _MEMBERS + 1]
    return values


def _problem(path: pathlib.Path, size: int, *, stored: bool) -> str:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MEMBERS:
            return f"{len(members):,} members"
        if len({member.filename for member in members}) < len(members):
            return "two members of one name"
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            compressed = member.compress_type != zipfile.ZIP_STORED
            if stored and compressed:
                return f"{member.filename}: compressed"
            if not compressed and member.compress_size != member.file_size:
                return (
                    f"{member.filename}: two sizes, {member.compress_size:,} and {member.file_size:,} bytes"
                )
            if member.header_offset < end:
                return f"{member.filename}: shares bytes with another member"
            problem, end = _span(archive, member)
            if problem or end > size:
                return f"{member.filename}: {problem or 'longer than the file'}"
            if member.filename.endswith(".npy") and (problem := _too_large_array(archive, member)):
                return f"{member.filename}: {problem}"
        total = sum(member.file_size for member in members)
        if total > max(ALWAYS, RATIO * size):
            return f"{total:,} bytes in a file of {size:,}"
    return ""


def _span(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, int]:
    """Returns what is wrong with a member's own header, and where its data end."""
    file = archive.fp
    assert file is not None  # it is open
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        return "no header", member.header_offset
    packed, plain, name, extra = struct.unpack("<2I2H", header[18:30])
    end = member.header_offset + 30 + name + extra + member.compress_size
    later = bool(header[6] & 8) and not packed and not plain  # the sizes follow the data
    in_extra = 0xFFFFFFFF in (packed, plain)
    if not later and not in_extra and (packed, plain) != (member.compress_size, member.file_size):
        return "two sizes, in its header and in the directory", end
    return "", end


def _too_large_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """Returns what is wrong with the shape of a .npy member, which numpy allocates before it reads."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        return f"shape {shape}" if min(shape, default=0) < 0 or size > member.file_size else ""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    return values


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} is not a finite number")
