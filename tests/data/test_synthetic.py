"""The composite: masks, proportions, class shares, reproducibility, disjoint splits."""

import multiprocessing

import numpy as np
import pytest
import simplejpeg

from softbio_jax.data.drawing import synthetic
from softbio_jax.data.drawing.face import FACTORS
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

ALL = [(name, "train") for name in synthetic.SOURCES] + [(name, "test") for name in synthetic.TEST_SETS]
MASKS = {
    "synthetic_fairface": {"age", "gender"},
    "synthetic_lagenda": {"age", "gender"},
    "synthetic_celeba_hq": {"gender"},
    "synthetic_raf_db": {"gender", "emotion"},
    "synthetic_utkface": {"age", "gender"},
    "synthetic_vggface2": {"age", "gender"},
}


@pytest.fixture
def undrawn(monkeypatch):
    """Rows without their images, for statistics over many of them."""
    monkeypatch.setattr(synthetic, "render", lambda face, rng, size: None)


@pytest.mark.parametrize("name, split", ALL)
def test_labels_are_masked_as_in_the_data_set_it_stands_for(name, split):
    for row in range(5):
        labels = synthetic.draw(name, split, row, size=16, seed=0).labels
        assert set(labels) == set(TASKS)
        assert {task for task, label in labels.items() if label != MISSING} == MASKS[name]


@pytest.mark.parametrize("name, split", ALL)
def test_class_shares_follow_the_set(name, split, undrawn):
    found = {"train": synthetic.SOURCES, "test": synthetic.TEST_SETS}[split][name]
    count = 3000
    labels = [synthetic.draw(name, split, row, size=16, seed=4).labels for row in range(count)]
    for task in found.tasks:
        wanted = np.array(getattr(found, task)) / np.sum(getattr(found, task))
        seen = np.bincount([row[task] for row in labels], minlength=len(wanted)) / count
        # The even sequence is closer than independent draws, whose deviation is sqrt(pq / n).
        assert np.abs(seen - wanted).max() < 0.004


def test_class_shares_hold_for_any_run_of_rows(undrawn):
    draw = [synthetic.draw("synthetic_raf_db", "train", row, size=16, seed=0) for row in range(500)]
    happy = np.array([row.labels["emotion"] == 3 for row in draw])
    for start in range(0, 400, 50):
        assert abs(happy[start : start + 100].mean() - 3701 / 9215) < 0.06


def test_tasks_are_independent(undrawn):
    rows = [synthetic.draw("synthetic_lagenda", "train", r, size=16, seed=1) for r in range(4000)]
    age = np.array([row.labels["age"] for row in rows])
    gender = np.array([row.labels["gender"] for row in rows])
    assert abs(np.corrcoef(age, gender)[0, 1]) < 0.03


def test_sizes_are_the_thesis():
    assert [source.size for source in synthetic.SOURCES.values()] == [69395, 67352, 22400, 9215]
    for sets in (synthetic.SOURCES, synthetic.TEST_SETS):
        for found in sets.values():
            for task in found.tasks:
                counts = getattr(found, task)
                assert len(counts) == TASKS[task].num_classes
                if sum(counts) > 100:  # VGGFace2's gender is known as a share only
                    assert sum(counts) == found.size


def test_composite_counts_keep_the_proportions_and_the_total():
    whole = synthetic.composite_counts(168_362)
    assert whole == {name: source.size for name, source in synthetic.SOURCES.items()}
    for total in (0, 1, 7, 1000, 12_345):
        counts = synthetic.composite_counts(total)
        assert sum(counts.values()) == total
        for name, count in counts.items():
            assert abs(count - total * synthetic.SOURCES[name].size / 168_362) < 1


def test_rows_are_jpegs_of_the_asked_size_with_unique_ids():
    rows = list(synthetic.rows("synthetic_utkface", "test", size=40, seed=0, count=6))
    assert len({row[0] for row in rows}) == 6
    for number, (_, encoded, labels) in enumerate(rows):
        image = simplejpeg.decode_jpeg(encoded)
        drawn = synthetic.draw("synthetic_utkface", "test", number, size=40, seed=0)
        assert image.shape == (40, 40, 3) and labels == drawn.labels
        assert np.abs(image.astype(int) - drawn.image).mean() < 4  # JPEG's loss


def first_pixels(row):
    return synthetic.draw("synthetic_lagenda", "train", row, size=24, seed=2).image


def test_a_row_depends_on_its_number_alone():
    one_by_one = np.stack([first_pixels(row) for row in (3, 0, 2, 1)])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = np.stack(pool.map(first_pixels, range(4)))
    np.testing.assert_array_equal(one_by_one, elsewhere[[3, 0, 2, 1]])


def test_seed_set_and_split_change_every_image():
    streams = [(name, split, seed) for name, split in ALL for seed in (0, 1)]
    images = {
        synthetic.draw(name, split, row, size=16, seed=seed).image.tobytes()
        for name, split, seed in streams
        for row in range(20)
    }
    images |= {image.tobytes() for image, _ in synthetic.pretext_rows(size=16, seed=0, count=20)}
    assert len(images) == 20 * (len(streams) + 1)


def test_vggface2_ages_are_noisy_and_the_others_are_not(undrawn, monkeypatch):
    truth = []
    sample = synthetic.sample_face

    def spy(**given):
        truth.append(given["age"])
        return sample(**given)

    monkeypatch.setattr(synthetic, "sample_face", spy)
    for name, low, high in (("synthetic_vggface2", 0.2, 0.3), ("synthetic_utkface", 0, 0)):
        truth.clear()
        labels = [synthetic.draw(name, "test", r, size=16, seed=0).labels["age"] for r in range(800)]
        off = np.abs(np.array(labels) - truth)
        assert low <= (off > 0).mean() <= high and off.max() <= 2


def test_pretext_targets_are_standardised_and_label_free(undrawn):
    targets = np.stack([t for _, t in synthetic.pretext_rows(size=16, seed=9, count=3000)])
    assert targets.shape == (3000, len(FACTORS)) and targets.dtype == np.float32
    np.testing.assert_allclose(targets.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(targets.std(0), 1, atol=0.1)
    assert not set(FACTORS) & set(TASKS)


@pytest.mark.parametrize(
    "arguments, message",
    (
        (("synthetic_fairfase", "train"), "synthetic_fairface"),
        (("synthetic_utkface", "train"), "expected synthetic_fairface"),
        (("synthetic_fairface", "val"), "expected train or test"),
    ),
)
def test_unknown_names_are_told_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        list(synthetic.rows(*arguments, size=32, seed=0, count=1))


def test_a_tiny_image_is_refused():
    with pytest.raises(UserError, match=">= 16"):
        synthetic.draw("synthetic_fairface", "train", 0, size=8, seed=0)
