"""Multitask soft biometrics in JAX: a Perception Encoder adapted to age, gender and emotion.

`softbio_jax.load(source).predict(images)` uses a trained model. Everything else is imported from its
package, for example `from softbio_jax.models import MultitaskModel`. Importing the top level loads
nothing, so that command lines start at once.
"""

import importlib
from typing import Any

from softbio_jax import moved

__version__ = "0.2.0"

moved.install()


def load(source: Any, **options: Any) -> Any:
    """Returns a trained model: `softbio_jax.inference.predictor.load`, imported on the first call.

    >>> import softbio_jax
    >>> model = softbio_jax.load("runs/demo/run")  # doctest: +SKIP
    >>> model.predict("face.jpg")[0].classes  # doctest: +SKIP
    {'age': '20-29', 'gender': 'female', 'emotion': 'happy'}
    """
    # By name: the rest of the package imports this module.
    return importlib.import_module("softbio_jax.inference.predictor").load(source, **options)
