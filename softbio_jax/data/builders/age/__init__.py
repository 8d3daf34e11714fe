"""Data sets whose images have an age, and mostly a gender.

Importing this package registers them.
"""

from softbio_jax.data.builders.age import (  # noqa: F401
    adience,
    agedb,
    appa_real,
    fairface,
    imdb_clean,
    lagenda,
    morph,
    utkface,
    vggface2,
)
