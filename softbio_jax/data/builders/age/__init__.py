"""Data sets whose images have an age, and mostly a gender.

Importing this package registers them.
"""

from softbio_jax.data.builders.age import (  # noqa: F401
    adience,
    fairface,
    imdb_clean,
    lagenda,
    utkface,
    vggface2,
)
