"""One TFDS builder a data set: from a folder as people have it to array_record files."""

from softbio_jax.data.builders.base import FaceBuilder
from softbio_jax.data.builders.fairface import FairFace
from softbio_jax.data.builders.folder import Folder

BUILDERS: dict[str, type[FaceBuilder]] = {b.name: b for b in (FairFace, Folder)}
