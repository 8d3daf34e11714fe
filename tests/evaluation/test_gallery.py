"""The error gallery: the right images in the right order, only where they may be."""

import numpy as np
import pytest

from softbio_jax.evaluation.report import gallery
from tests.evaluation.fixtures import hand_made
from tests.evaluation.report.fixtures import write_run

PNG = b"\x89PNG image of "


@pytest.fixture
def faces():
    #                 right       wrong .6    wrong .9    wrong .7    unknown
    probabilities = [[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3], [0.2, 0.8]]
    return hand_made("faces", "gender", [0, 0, 0, 1, -1], probabilities)


def test_most_confident_mistakes_come_first(faces):
    male, female = gallery.confident_mistakes(faces, "gender", count=8)
    assert [example.row for example in male] == [2, 1]
    assert [example.row for example in female] == [3]
    assert (female[0].label, female[0].predicted) == (1, 0)
    assert [e.row for e in gallery.confident_mistakes(faces, "gender", count=1)[0]] == [2]


def test_the_sample_is_of_labelled_examples(faces):
    rows = {example.row for example in gallery.sample(faces, "gender", count=10)}
    assert rows == {0, 1, 2, 3}


def test_a_page_shows_images_with_their_distributions(faces):
    asked = []

    def read(name):
        asked.append(name)
        return PNG + name.encode()

    page = gallery.render(faces, read)
    assert asked[:3] == ["2", "1", "3"]
    assert "male, taken for female" in page and "female 90%" in page
    assert "data:image/png;base64," in page
    assert "Private" in page


def test_all_shown_classes_include_the_true_one():
    probabilities = np.full((1, 7), 0.05)
    probabilities[0, :3] = [0.4, 0.3, 0.1]
    made = hand_made("faces", "emotion", [6], probabilities)
    page = gallery.render(made, lambda _: PNG)
    assert "neutral 5%" in page and 'class="bar true"' in page


def test_galleries_are_written_to_the_given_folder(tmp_path, monkeypatch):
    from softbio_jax.evaluation.report import runs

    run = runs.load(write_run(tmp_path / "lora", tasks=("age", "gender")), name="lora")
    opened = []

    def image_reader(directory, split):
        opened.append((directory.name, split))
        return lambda _: PNG

    monkeypatch.setattr(gallery, "image_reader", image_reader)
    pages = gallery.write_galleries([run], tmp_path / "data", tmp_path / "data" / "gallery")
    assert opened == [("fairface", "test"), ("vggface2", "test")]
    assert [page.name for page in pages] == ["lora_fairface.html", "lora_vggface2.html"]
    assert all(page.parent == tmp_path / "data" / "gallery" for page in pages)
