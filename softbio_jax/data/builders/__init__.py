"""One TFDS builder a data set: from a folder as people have it to array_record files.

Importing a builder here is all that registers it.
"""
# ruff: noqa: F401

import inspect

from softbio_jax.data.builders.adience import Adience
from softbio_jax.data.builders.affectnet import AffectNet
from softbio_jax.data.builders.base import FaceBuilder
from softbio_jax.data.builders.celeba import CelebA, CelebAHQ, CelebAMaskHQ
from softbio_jax.data.builders.fairface import FairFace
from softbio_jax.data.builders.fer2013 import Fer2013
from softbio_jax.data.builders.folder import Folder
from softbio_jax.data.builders.imdb_clean import ImdbClean
from softbio_jax.data.builders.lagenda import Lagenda
from softbio_jax.data.builders.rafdb import RafDb
from softbio_jax.data.builders.standard import Standard
from softbio_jax.data.builders.synthetic import Synthetic
from softbio_jax.data.builders.table import Table
from softbio_jax.data.builders.utkface import UTKFace
from softbio_jax.data.builders.vggface2 import VGGFace2

BUILDERS: dict[str, type[FaceBuilder]] = {
    builder.name: builder
    for builder in list(globals().values())
    if inspect.isclass(builder) and issubclass(builder, FaceBuilder) and builder is not FaceBuilder
}
