"""Prepared data sets, made on the fly from tiny trees."""

import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from tests.data.trees import make_emotions, make_fairface


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Two prepared data sets: faces (age, gender; 12 + 5) and emotions (6 + 6)."""
    root = tmp_path_factory.mktemp("prepared")
    make_fairface(root / "raw_faces")
    make_emotions(root / "raw_emotions")
    prepare.prepare("fairface", source=str(root / "raw_faces"), out=root / "faces")
    prepare.prepare("folder", source=str(root / "raw_emotions"), out=root / "emotions", task="emotion")
    return root


@pytest.fixture
def faces(prepared):
    return sources.open_prepared(prepared / "faces", "train")


@pytest.fixture
def emotions(prepared):
    return sources.open_prepared(prepared / "emotions", "train")
