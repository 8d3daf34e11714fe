"""One image in a hundred is bad in one of the ways that images are bad."""

import io

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import decode, pipeline, sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import encode, write_image

_COUNT = 800
_SIDE = 16


def _sixteen_bit():
    buffer = io.BytesIO()
    values = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _rotated():
    exif = Image.Exif()
    exif[274] = 6
    return encode(1, exif=exif)


def _huge():
    # A small file that says it holds 400 million pixels.
    data = bytearray(encode(2, kind="PNG"))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    return bytes(data)


# name -> (bytes, whether it can be used all the same)
ODD = {
    "truncated": (encode(3, size=(64, 64))[:-200], False),
    "empty": (b"", False),
    "text": (b"<html>not found</html>", False),
    "huge": (_huge(), False),
    "cmyk": (encode(4, mode="CMYK"), True),
    "sixteen_bit": (_sixteen_bit(), True),
    "palette": (encode(5, mode="P", kind="PNG"), True),
    "rotated": (_rotated(), True),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    for number in range(_COUNT - len(ODD)):
        write_image(root / "train" / ("male", "female")[number % 2] / f"{number:04d}.jpg", number)
    for name, (data, _) in ODD.items():
        (root / "train" / "male" / f"{name}.jpg").write_bytes(data)
    return root


def test_preparation_rejects_exactly_the_broken_ones(source, tmp_path):
    report = prepare.prepare("folder", source=str(source), out=tmp_path / "out", task="gender")
    train = report["splits"]["train"]
    broken = {f"train/male/{name}.jpg" for name, (_, usable) in ODD.items() if not usable}
    assert {row["path"] for row in train["rejected_rows"]} == broken
    assert all(row["reason"] for row in train["rejected_rows"])
    assert (train["kept"], train["rejected"]) == (_COUNT - len(broken), len(broken))
    kept = sources.open_prepared(tmp_path / "out", "train")
    counts = np.bincount(kept.labels["gender"]).tolist()
    assert list(train["class_counts"]["gender"].values()) == counts == [400, 396]


def test_preparation_stops_above_the_threshold(source, tmp_path):
    with pytest.raises(UserError, match=r"expected at most 0\.4%.*found 4 of 800") as error:
        prepare.prepare("folder", source=str(source), out=tmp_path / "out", task="gender", max_rejected=0.004)
    assert "train/male/empty.jpg: empty file" in str(error.value)


class _Rotting:
    """A prepared set some of whose records were spoilt after the preparation."""

    def __init__(self, dataset, spoilt):
        self._dataset, self._spoilt = dataset, spoilt

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, example):
        return self._spoilt.get(example, self._dataset[example])


def test_training_masks_exactly_the_broken_ones(source, tmp_path):
    prepare.prepare("folder", source=str(source), out=tmp_path / "out", task="gender")
    dataset = sources.open_prepared(tmp_path / "out", "train")
    spoilt = {17 * (n + 1): data for n, (data, _) in enumerate(ODD.values())}
    broken = {17 * (n + 1) for n, (_, usable) in enumerate(ODD.values()) if not usable}
    batches = pipeline.eval_batches(
        _Rotting(dataset, spoilt), image_size=_SIDE, batch_size=100, max_rejected=0.01
    )
    unmasked = np.concatenate([batch["mask/gender"][batch["valid"]] for batch in batches])
    assert set(np.flatnonzero(~unmasked)) == broken
    assert {r.id for r in batches.rejected} == {
        f"out/train:{dataset.columns['id'][example]}" for example in broken
    }


def test_usable_odd_images_keep_their_content():
    for name in ("cmyk", "sixteen_bit", "palette", "rotated"):
        image = decode.decode(ODD[name][0], size=_SIDE)
        assert image.shape == (_SIDE, _SIDE, 3)
        assert image.std() > 10, name
