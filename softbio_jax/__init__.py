"""Multitask soft biometrics in JAX: a Perception Encoder adapted to age, gender and emotion.

`softbio_jax.load(source).predict(pictures)` uses a trained model. For all else import the module
you need, for example `from softbio_jax.models import multitask`; this package's top level loads
nothing, so that command lines start at once.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def load(source: Any, **options: Any) -> Any:
    """Returns a trained model: `softbio_jax.inference.predictor.load`, imported when it is called.

    >>> import softbio_jax
    >>> model = softbio_jax.load("runs/demo/run")  # doctest: +SKIP
    >>> model.predict("face.jpg")[0].classes  # doctest: +SKIP
    {'age': '20-29', 'gender': 'female', 'emotion': 'happy'}
    """
    # By name, since everything below this package may import it.
    return importlib.import_module("softbio_jax.inference.predictor").load(source, **options)
