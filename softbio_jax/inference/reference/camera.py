"""Age, gender and emotion of the face in a frame, with numpy and LiteRT: python camera.py frame.npy

frame.npy is (H, W, 3) uint8 RGB; with OpenCV, also face.jpg, or 0 for the frames of camera 0."""

import argparse
import json
import pathlib
from collections.abc import Iterator

import numpy as np


def axis(pixels: int, size: int) -> np.ndarray:
    """Returns the matrix (size, pixels) that resizes an axis: area averages, or bilinear."""
    start, step = np.arange(size)[:, None] * pixels / size, pixels / size
    if pixels > 1.5 * size:
        return np.diff(np.arange(pixels + 1).clip(start, start + step)) / step
    return (1 - abs((start + step / 2 - 0.5).clip(0, pixels - 1) - np.arange(pixels))).clip(0)


def crop(frame: np.ndarray, box: list[int], size: int) -> np.ndarray:
    """Resizes the square around a box, moved into the frame, to (1, S, S, 3) uint8."""
    side = min(max(box[2] - box[0], box[3] - box[1]), *frame.shape[:2])
    left, top = (min(max((box[i] + box[i + 2] - side) // 2, 0), frame.shape[1 - i] - side) for i in (0, 1))
    face, ends = frame[top : top + side, left : left + side].astype(np.float64), axis(side, size)
    return np.rint(np.einsum("ih,hwc,jw->ijc", ends, face, ends, optimize=True)).astype(np.uint8)[None]


def frames(source: str) -> Iterator[np.ndarray]:
    """Yields frames (H, W, 3) uint8 RGB."""
    if source.endswith(".npy"):
        yield np.load(source)
    else:
        import cv2

        camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
        yield from (frame[..., ::-1] for _, frame in iter(camera.read, (False, None)))


here, parser = pathlib.Path(__file__).resolve().parent, argparse.ArgumentParser(description=__doc__)
parser.add_argument("source")
parser.add_argument("--box", default="", help="of the face, x0,y0,x1,y1; default: the frame")
parser.add_argument("--risk", choices=["0.01", "0.02", "0.05", "0.1", "0.2", "0.3"], help="unsure above it")
if __name__ == "__main__":
    from ai_edge_litert.interpreter import Interpreter

    flags, config = parser.parse_args(), json.loads((here / "config.json").read_text())
    run = Interpreter(str(here / config["files"][-1])).get_signature_runner(config["signature"])
    (count, size), box = config["input"]["shape"][:2], [int(x) for x in flags.box.split(",") if x]
    for frame in frames(flags.source):
        face, answers = crop(frame, box or [0, 0, *frame.shape[1::-1]], size), []
        found = run(images=np.repeat(face, count, axis=0))
        for task, names in config["outputs"].items():
            p = np.exp((found[task][0] - found[task].max()) / config["temperatures"].get(task, 1.0))
            least = config["thresholds"][task][flags.risk] if flags.risk else 0.0
            sure = least is not None and p.max() / p.sum() >= least
            answers.append(f"{task} {names[p.argmax()] if sure else 'unsure'} ({p.max() / p.sum():.2f})")
        print(", ".join(answers), flush=True)
    raise SystemExit(0 if "frame" in globals() else f"error: no frame in {flags.source}; fix: check the name")
