"""Damaged content: checks of stored bytes, and which errors of reading mean damage.

A damaged file makes its reader raise almost anything: a decompressor's own error, a length that is
no number, a recursion without end. So every error counts as damage unless it is known as a refusal:
permission denied, a disk that is gone, no memory. A sector that cannot be read (EIO) is damage.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from zlib import crc32

_REFUSED = (
    *(errno.EACCES, errno.EPERM),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET),
)
_SHORT = 512  # bytes
_SAMPLE = 256  # bytes of longer data
_WORDS = tuple(os.strerror(code) for code in _REFUSED)
# The status codes of TensorStore and object stores.
_STATUS = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


def refusal(error: BaseException) -> str | None:
    """Returns the reason why a disk or machine refused, None where the content is damaged.

    >>> refusal(PermissionError(errno.EACCES, "Permission denied")), refusal(EOFError())
    ('Permission denied', None)
    """
    for found in _chain(error):
        if isinstance(found, MemoryError):
            return "out of memory"
        if isinstance(found, OSError) and found.errno in _REFUSED:
            return os.strerror(found.errno)
        text = str(found).partition("\n")[0]
        for words in (*_WORDS, *_STATUS):
            if words in text:
                return words
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def reason(error: BaseException) -> str:
    r"""Returns an error as a short line: the first one of its first cause.

    >>> reason(ValueError("checksum mismatch\nat byte 3")), reason(EOFError())
    ('checksum mismatch', 'EOFError')
    """
    *_, first = _chain(error)
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(first).__name__


def sample_check(data: bytes) -> int:
    """Returns the CRC-32 of the length of stored bytes and of a sample of them.

    The sample is everything up to 512 bytes, and 256 bytes from the middle of longer data, the centre
    row of an uncompressed image: it distinguishes images and encodings at a cost that does not grow
    with the image. Single changed bytes are found by the record files' own checksums.
    """
    size = len(data)
    if size <= _SHORT:
        return crc32(data, size)
    middle = size // 2
    # One slice and one call: this runs for every image that is read.
    return crc32(data[middle : middle + _SAMPLE], size & 0xFFFFFFFF)


def checks_of(data: bytes) -> tuple[int, int]:
    """Returns the `checks` of stored bytes."""
    return sample_check(data), crc32(data)
