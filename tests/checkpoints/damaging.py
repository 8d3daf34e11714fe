"""Damage as disks and people do it to a folder of files."""

import contextlib
import random

KINDS = ("zeros", "noise", "flip", "swap", "truncate", "delete", "append")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def damaged(folder, seed):
    """Damages a folder, in its largest file half of the time; yields what was done, and undoes it."""
    draw, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    before = {path: path.read_bytes() for path in files_of(folder)}
    full = [path for path, content in before.items() if content]
    largest = max(full, key=lambda path: len(before[path]))
    path = largest if draw.random() < 0.5 else draw.choice(full)
    content = bytearray(before[path])
    size = min(512 << draw.randrange(8), len(content))  # 512 to 65,536 bytes
    start = draw.randrange(0, len(content), 512)
    if kind == "zeros":
        content[start : start + size] = bytes(len(content[start : start + size]))
    elif kind == "noise":
        content[start : start + size] = draw.randbytes(len(content[start : start + size]))
    elif kind == "flip":
        place = draw.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
    elif kind == "swap":
        other = draw.choice([found for found in full if before[found] != before[path]])
        content = before[other]
        other.write_bytes(before[path])
    elif kind == "truncate":
        content = content[: draw.randrange(len(content))]
    elif kind == "append":
        content += draw.randbytes(draw.randrange(1, 65_536))
    path.write_bytes(content)
    if kind == "delete":
        path.unlink()
    try:
        yield f"{kind} {path.relative_to(folder)}"
    finally:
        for found, content in before.items():
            found.write_bytes(content)
