"""Runs the model of this folder without softbio_jax: numpy, Pillow and the model's own runtime.

    python run.py                    reference.jpg, compared with reference.json
    python run.py face.jpg ...       the probabilities of face crops
    python run.py --tensor=x.npy face.jpg    only the tensor, to compare another program's with

It needs `pip install numpy pillow` and onnxruntime, ai-edge-litert or jax. Every step of the
preprocessing is described in config.json.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of which none starts another program


def rgb(path: str | pathlib.Path) -> np.ndarray:
    """Decodes an image, rotated as its EXIF block says, to (H, W, 3) uint8."""
    with Image.open(path, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # grey of 16 bits
            grey = np.rint(np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def weights(pixels: int, size: int, rule: str) -> np.ndarray:
    """Returns the matrix (size, pixels) that resizes an axis."""
    matrix = np.zeros((size, pixels))
    for i in range(size):
        start, end = i * pixels / size, (i + 1) * pixels / size
        if rule == "area":
            edges = np.arange(pixels + 1).clip(start, end)
            matrix[i] = np.diff(edges) / (end - start)
            continue
        if rule == "area_enlarging":
            j = int(i * (1 / (size / pixels)))  # as OpenCV rounds
            f = float(np.float32((i + 1) - (j + 1) * (size / pixels)))
            f = 0.0 if f <= 0 else f - int(f)
        else:
            place = min(max((i + 0.5) * pixels / size - 0.5, 0), pixels - 1)
            j = int(place)
            f = place - j
        matrix[i, j] += 1 - f
        matrix[i, min(j + 1, pixels - 1)] += f
    return matrix


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes (H, W, 3) to (size, size, 3) uint8, not keeping the aspect ratio."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    rule = "area" if max(height, width) > 1.5 * size else "bilinear"
    if rule == "area" and min(height, width) < size:
        rule = "area_enlarging"
    rows, columns = weights(height, size, rule), weights(width, size, rule)
    resized = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def load(config: dict) -> tuple:
    """Returns the name of the model's file and a function of uint8 (1, S, S, 3) to {task: logits}."""
    if config["format"] == "onnx":
        import onnxruntime

        file = "model.onnx"
        session = onnxruntime.InferenceSession(str(HERE / file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return file, lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))
    if config["format"] == "litert":
        from ai_edge_litert.interpreter import Interpreter

        file = "model.tflite"
        runner = Interpreter(model_path=str(HERE / file)).get_signature_runner(config["signature"])
        count = config["input"]["shape"][0]  # images per call
        return file, lambda images: runner(images=np.repeat(images, count, axis=0))
    import jax.export

    file = config["file"]
    exported = jax.export.deserialize(bytearray((HERE / file).read_bytes()))
    return file, exported.call


def main() -> int:
    """Runs the model on the images of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*")
    parser.add_argument("--tensor", help="write the input tensor of the first image and stop")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    size = config["input"]["shape"][1]
    names = arguments.images or [HERE / "reference.jpg"]
    try:
        tensors = [squash(rgb(name), size)[None] for name in names]
    except OSError as error:
        sys.exit(f"error: cannot read an image: {error}; fix: give files of face crops")
    if arguments.tensor:
        np.save(arguments.tensor, tensors[0])
        return 0
    file, run = load(config)
    for name, tensor in zip(names, tensors, strict=True):
        logits = {task: np.asarray(values)[0] for task, values in run(tensor).items()}
        for task, classes in config["outputs"].items():
            scaled = logits[task] / config["temperatures"].get(task, 1.0)
            shares = np.exp(scaled - scaled.max())
            best = int(shares.argmax())
            print(f"{name}: {task} {classes[best]} {shares[best] / shares.sum():.4f}")
    if arguments.images:
        return 0
    expected = json.loads((HERE / "reference.json").read_text())["files"][file]
    worst = max(float(np.abs(logits[task] - values).max()) for task, values in expected["logits"].items())
    agrees = worst <= expected["tolerance"]
    print(f"reference: logits differ by {worst:.1e}, allowed {expected['tolerance']:.1e}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
