"""Videos: which frames are used, and their pixels."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from softbio_jax.data.decode import MAX_PIXELS
from softbio_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Which frames of a video are used: every `frames`-th, or one per `seconds`."""

    frames: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Pace:
        """Reads a pace such as "10" (frames) or "0.5s" (seconds)."""
        match = re.fullmatch(r"(\d{1,9})|(\d{0,9}\.?\d{1,9})s", text.strip())
        found = match and cls(frames=int(match[1] or 0), seconds=float(match[2] or 0))
        if not found or found == cls():
            raise UserError(
                "bad pace",
                where="--every",
                expected="frames as 10, or seconds as 0.5s",
                found=repr(text),
                fix="correct it",
            )
        return found


def frames(path: str, pace: Pace, *, after: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds from the start, (H, W, 3) uint8 RGB), rotated as the video's metadata says.

    Args:
      pace: which frames; always includes the first.
      after: frames up to this time are skipped without being decoded to pixels.

    Raises:
      UserError: not a video, or no frame in it.
    """
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1e6 else 25.0
        size = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                "cannot read the video",
                where=path,
                expected=f"frames of at most {MAX_PIXELS:,} pixels",
                found=f"{size[0]:.0f}x{size[1]:.0f}",
                fix="make it smaller, for example with ffmpeg",
            )
        number, due = 0, 0.0
        while capture.grab():
            # The time of the frame just grabbed; some containers do not have it, or anything there.
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            now = now if 0 < now < math.inf else number / rate
            if number % pace.frames == 0 if pace.frames else now >= due - 1e-6:
                if pace.seconds:
                    due += pace.seconds * max(1.0, (now + 1e-6 - due) // pace.seconds + 1)
                if after is None or now > after + 5e-4:  # tables have milliseconds
                    complete, image = capture.retrieve()
                    if complete:
                        yield now, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            number += 1
        if number == 0:
            raise UserError(
                "cannot read the video",
                where=path,
                expected="a video that OpenCV opens",
                found="no frame",
                fix="convert it, for example with ffmpeg",
            )
    finally:
        capture.release()
