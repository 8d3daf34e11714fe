"""MMA-FER: emotion, in folders of classes."""

from softbio_jax.data.builders.class_folders import ClassFolders, emotions
from softbio_jax.data.prepare.base import BUILDERS


@BUILDERS.register("mma_fer")
class MmaFer(ClassFolders):
    """Reads `MMAFEDB/{train,valid,test}/{angry,disgust,fear,happy,neutral,sad,surprise}/`.

    Source: the layout of the release of the MMA facial expression dataset.
    """

    name = "mma_fer"
    TITLE = "MMA-FER"
    TASKS = ("emotion",)
    VOCABULARY = emotions()
    LAYOUTS = VOCABULARY.layouts("{angry,disgust,...}")
