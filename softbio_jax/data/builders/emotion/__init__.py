"""Data sets whose images have an emotion.

Importing this package registers them.
"""

from softbio_jax.data.builders.emotion import (  # noqa: F401
    affectnet,
    ck_plus,
    expw,
    fer2013,
    ferplus,
    jaffe,
    mma_fer,
    rafdb,
)
