"""One TFDS builder per data set: from a folder as distributed to array_record files.

Importing this package registers all of them in `BUILDERS`.
"""

from softbio_jax.data.builders import age, celeba, emotion, folder, parquet, table  # noqa: F401
from softbio_jax.data.drawing import synthetic  # noqa: F401
from softbio_jax.data.prepare.base import BUILDERS

__all__ = ["BUILDERS"]
