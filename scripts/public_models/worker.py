"""What the Python workers share: images from standard input, answers to standard output."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def images() -> Iterator[np.ndarray]:
    """Yields the (H, W, 3) uint8 RGB images of standard input; see predict.py."""
    source = sys.stdin.buffer
    while header := source.read(8):
        height, width = struct.unpack("<II", header)
        yield np.frombuffer(source.read(3 * height * width), np.uint8).reshape(height, width, 3)


def serve(answer: Callable[[np.ndarray], dict[str, Any]]) -> None:
    """Writes the answer to every image as a line of JSON."""
    for image in images():
        print(json.dumps(answer(image)), flush=True)
