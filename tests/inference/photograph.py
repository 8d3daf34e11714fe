"""One photograph by every way that predicts, each as its users run it."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

import softbio_jax
from softbio_jax.inference import bundle, images

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = ("stablehlo", "onnx", "litert")


def predictions(run, photo, folder):
    """Returns {way: (probabilities, logits or None)} of a photograph's faces.

    Both are {task: (faces, C)}. The first way is the API on the run, the others are compared with
    it: the API on the saved model, scripts/predict.py, and the exports of scripts/export.py, each
    read by its own runtime only.

    Args:
      run: a run of scripts/train.py.
      photo: an image with faces.
      folder: an empty one.
    """
    model = softbio_jax.load(run)
    faces = [prediction.face for prediction in model.predict_faces(photo)[0]]
    image, size = images.pixels(photo), model.bundle.image_size
    squares = np.stack([images.face_square(image, face, size=size) for face in faces])
    ways = {"API": (_stacked(model.predict_faces(photo)[0]), model.logits(squares))}
    saved = softbio_jax.load(bundle.save(model.bundle, folder / "saved"))
    ways["API, saved model"] = _stacked(saved.predict_faces(photo)[0]), saved.logits(squares)
    ways["scripts/predict.py"] = _by_script(run, photo, folder / "rows.csv"), None
    for form in FORMS:
        script("export.py", f"--model={run}", f"--format={form}", f"--out={folder / form}")
        config = json.loads((folder / form / "config.json").read_text())
        logits = _READERS[form](folder / form, squares)
        found = {
            task: _softmax(values / config["temperatures"].get(task, 1.0)) for task, values in logits.items()
        }
        ways[form] = found, logits
    return ways


def differences(ways):
    """Returns {way: (largest difference of probabilities, of logits, whether classes agree)}."""
    (_, (wanted, wanted_logits)), *others = ways.items()
    return {
        way: (
            _largest(found, wanted),
            None if logits is None else _largest(logits, wanted_logits),
            all((found[t].argmax(-1) == wanted[t].argmax(-1)).all() for t in wanted),
        )
        for way, (found, logits) in others
    }


def script(name, *arguments):
    """Runs a script, which must succeed, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _by_script(run, photo, out):
    script("predict.py", f"--model={run}", f"--out={out}", photo)
    rows = list(csv.DictReader(out.open()))
    names = [key for key in rows[0] if key.startswith(("age_", "gender_", "emotion_"))]
    return {
        task: np.array([[float(row[n]) for n in names if n.startswith(f"{task}_")] for row in rows])
        for task in ("age", "gender", "emotion")
    }


def _stablehlo(folder, squares):
    import jax.export

    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    return {task: np.asarray(values) for task, values in exported.call(squares).items()}


def _onnx(folder, squares):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": squares}), strict=True))


def _litert(folder, squares):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(folder / "model.tflite")).get_signature_runner()
    one_by_one = [runner(images=square[None]) for square in squares]
    return {task: np.concatenate([one[task] for one in one_by_one]) for task in one_by_one[0]}


_READERS = {"stablehlo": _stablehlo, "onnx": _onnx, "litert": _litert}


def _stacked(predictions):
    return {
        task: np.array([list(one.probabilities[task].values()) for one in predictions])
        for task in predictions[0].probabilities
    }


def _softmax(logits):
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def _largest(found, wanted):
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[task] - wanted[task]).max()) for task in wanted)
