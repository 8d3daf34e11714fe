import numpy as np

from softbio_jax.data.audit import duplicates
from tests.data.audit.planting import altered
from tests.data.trees import encode


def _digests(count):
    digests = np.zeros((count, 32), np.uint8)
    digests[:, 0], digests[:, 1] = np.divmod(np.arange(count), 256)
    return digests


def _thumbnails(images):
    return np.stack([duplicates.thumbnail(data)[0] for data in images])


def test_finds_exact_near_and_mirrored_copies_and_nothing_else():
    rng = np.random.default_rng(0)
    images = [encode(seed, size=(120, 100)) for seed in range(60)]
    images += [images[3], altered(images[7], rng, mirror=False)]
    images += [altered(images[11], rng, mirror=True)]
    digests = _digests(63)
    digests[60] = digests[3]
    found = duplicates.find(_thumbnails(images), digests, np.ones(63, bool))
    assert {(p.first, p.second, p.mirrored, p.exact) for p in found} == {
        (3, 60, False, True),
        (7, 61, False, False),
        (11, 62, True, False),
    }
    assert [pair.exact for pair in found] == [True, False, False]


def test_copies_in_different_blocks(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    images = [encode(seed, size=(64, 64)) for seed in range(20)]
    images.append(encode(2, size=(64, 64), quality=40))
    found = duplicates.find(_thumbnails(images), _digests(21), np.ones(21, bool))
    assert [(pair.first, pair.second) for pair in found] == [(2, 20)]


def test_unusable_images_are_left_out():
    thumbnails = np.zeros((4, 32, 32), np.uint8)
    assert not duplicates.find(thumbnails, _digests(4), np.ones(4, bool))
    thumbnails = np.repeat(_thumbnails([encode(1)]), 4, axis=0)
    usable = np.array([True, False, True, False])
    found = duplicates.find(thumbnails, _digests(4), usable)
    assert [(pair.first, pair.second) for pair in found] == [(0, 2)]


def test_recall_on_planted_copies_of_real_faces(real_data):
    paths = sorted((real_data / "fairface" / "train").iterdir())[:2000]
    images = [path.read_bytes() for path in paths]
    rng = np.random.default_rng(1)
    copied = rng.choice(len(images), 200, replace=False)
    copies = [altered(images[n], rng, mirror=bool(k % 2)) for k, n in enumerate(copied)]
    total = len(images) + len(copies)
    found = duplicates.find(_thumbnails(images + copies), _digests(total), np.ones(total, bool))
    planted = {(int(n), len(images) + k) for k, n in enumerate(copied)}
    pairs = {(pair.first, pair.second) for pair in found}
    assert len(planted & pairs) / len(planted) >= 0.99
    # What else is found among 2,000 real faces are true copies or very few.
    assert len(pairs - planted) <= 20
