import numpy as np
import pytest

from softbio_jax.data import faces
from softbio_jax.data.decode import UndecodableImage


@pytest.mark.parametrize(
    ("box", "square"),
    [
        ((10, 20, 30, 60), (0, 20, 40, 60)),
        ((10, 20, 50, 41), (10, 10, 50, 50)),
        ((5.9, 5.2, 15.7, 15.9), (5, 5, 15, 15)),
        ((0, 0, 7, 4), (0, -1, 7, 6)),
    ],
)
def test_enclosing_square(box, square):
    assert faces.enclosing_square(box) == square


def test_crop_is_black_outside_of_the_frame():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) + 1
    cut = faces.crop(image, (-1, 2, 3, 6))
    assert cut.shape == (4, 4, 3)
    np.testing.assert_array_equal(cut[:2, 1:], image[2:4, :3])
    assert not cut[2:].any()
    assert not cut[:, 0].any()


@pytest.mark.parametrize("box", [(5, 0, 9, 4), (0, 4, 4, 8), (2, 2, 2, 3), (-4, 0, 0, 4)])
def test_boxes_that_miss_the_image(box):
    with pytest.raises(UndecodableImage, match="misses the image"):
        faces.crop(np.zeros((4, 5, 3), np.uint8), box)
