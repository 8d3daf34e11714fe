"""A trained model and one photograph: every way to predict from it gives the same."""

import numpy as np
import pytest
from PIL import Image

from tests.docs import standins
from tests.inference import photograph

pytestmark = pytest.mark.app


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's tower, adapted with fewer drawings and steps: its weights are learned ones."""
    out = tmp_path_factory.mktemp("trained") / "demo"
    photograph.script("demo.py", f"--out={out}", "--faces=1500", "--test_faces=60", "--steps=120")
    return out / "run"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Three drawn faces on a page."""
    page = np.full((340, 1020, 3), 128, np.uint8)
    for i, row in enumerate(standins.FOUND):
        page[50:290, 60 + 320 * i : 300 + 320 * i] = standins.face(row)
    path = tmp_path_factory.mktemp("photo") / "page.png"
    Image.fromarray(page).save(path)
    return path


def test_every_way_gives_the_same(trained, photo, tmp_path):
    ways = photograph.predictions(trained, photo, tmp_path)
    assert list(ways) == ["API", "API, saved model", "scripts/predict.py", *photograph.FORMS]
    probabilities, _ = ways["API"]
    assert probabilities["age"].shape == (3, 9), "three faces"
    # Learned: of a drawn woman and two men, and not what a fresh head says of everybody.
    assert probabilities["gender"].max(-1).mean() > 0.8
    for way, (probability, logit, same) in photograph.differences(ways).items():
        # Rows of the script have six digits; float32 exports are held to 1e-4.
        assert same and probability < 1e-5, (way, probability)
        assert logit is None or logit < 1e-4, (way, logit)
