"""How many images an epoch has."""

from softbio_jax.errors import UserError
from softbio_jax.train.config import DataConfig
from softbio_jax.train.data import open_all

# FairFace 69,395, LAGENDA 67,352, CelebA-HQ 22,400, RAF-DB 9,215: what the thesis trains on.
THESIS_IMAGES = 168_362


def epoch_images(config: DataConfig) -> tuple[int, str]:
    """Returns the training rows of a run and where the number is from.

    Args:
      config: its sets; where they are not prepared on this machine, the thesis' number is taken.
    """
    try:
        return sum(map(len, open_all(config).train)), "the prepared training rows"
    except UserError:
        return THESIS_IMAGES, "the thesis' training rows"
