"""Frames of videos at a pace, read by OpenCV."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from softbio_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Every how many frames, or every how many seconds, a frame is taken."""

    frames: int = 0
    seconds: float = 0.0


def pace(text: str) -> Pace:
    """Returns the pace that a text such as "10" (frames) or "0.5s" (seconds) says.

    Raises:
      UserError: neither, or not above zero.
    """
    match = re.fullmatch(r"(\d+)|(\d*\.?\d+)s", text.strip())
    found = match and Pace(frames=int(match[1] or 0), seconds=float(match[2] or 0))
    if not found or found == Pace():
        raise UserError("bad pace", where="--every", expected="frames as 10, or seconds as 0.5s",
                        found=repr(text), fix="correct it")  # fmt: skip
    return found


def frames(
    path: str, pace: Pace, *, after: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds from the start, (H, W, 3) uint8 RGB), turned as the video says.

    Args:
      path: the file.
      pace: which frames; the first is always one of them.
      after: frames up to this time are passed over without being decoded to pixels.

    Raises:
      UserError: no video, or not a single frame.
    """
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        number, due = 0, 0.0
        while capture.grab():
            # The time of the frame just grabbed; some containers do not tell.
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / rate
            if pace.frames:
                wanted = number % pace.frames == 0
            else:
                wanted = now >= due - 1e-6
            if wanted:
                while pace.seconds and due <= now + 1e-6:
                    due += pace.seconds
                if after is None or now > after + 5e-4:  # tables have milliseconds
                    whole, picture = capture.retrieve()
                    if whole:
                        yield now, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            number += 1
        if number == 0:
            raise UserError("cannot read the video", where=path,
                            expected="a video that OpenCV opens", found="no frame",
                            fix="convert it, for example with ffmpeg")  # fmt: skip
    finally:
        capture.release()
