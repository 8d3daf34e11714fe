"""Data sets whose images have an age, and mostly a gender.

Importing this package registers them.
"""

from softbio_jax.data.builders.age import adience, fairface, imdb_clean, lagenda, utkface, vggface2  # noqa: F401
