"""Data sets whose images have an emotion.

Importing this package registers them.
"""

from softbio_jax.data.builders.emotion import affectnet, fer2013, rafdb  # noqa: F401
