"""A tiny teacher, its students, and what they share with runs without one."""

import json

import pytest

from softbio_jax.runs.session import Session
from softbio_jax.train import loop
from tests.runs.tiny import changed, config_on, run_of

OFF = {
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "degrees": 0.0,
    "translate": 0.0,
    "scale": (1.0, 1.0),
    "erase": 0.0,
}


class Killed(BaseException):
    """Ends a run where a signal would."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data_root):
    """A trained run whose images are larger than its students'."""
    workdir = tmp_path_factory.mktemp("teacher")
    config = changed(config_on(data_root), model__image_size=48, train__steps=4, seed=11)
    loop.train_and_evaluate(*run_of(config), workdir)
    return workdir


@pytest.fixture
def student(data_root, teacher):
    return changed(
        config_on(data_root),
        method={"name": "full"},
        optimizer__rates={"pooling": 1e-3, "blocks": 1e-3, "heads": 1e-2, "log_var": 1e-2},
        distill={"teacher": str(teacher), "feature": "cosine"},
    )


def _leaves(workdir, step):
    return json.loads((workdir / f"checkpoints/{step}/manifest.json").read_text())["leaves"]


def test_a_student_resumes_in_the_same_bits(student, tmp_path, monkeypatch):
    loop.train_and_evaluate(*run_of(student), tmp_path / "whole")
    train = Session.train

    def bomb(session, batch):
        if int(session.state.step) == 6:
            raise Killed
        return train(session, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Session, "train", bomb)
        loop.train_and_evaluate(*run_of(student), tmp_path / "broken")
    loop.train_and_evaluate(*run_of(student), tmp_path / "broken")
    assert _leaves(tmp_path / "broken", 8) == _leaves(tmp_path / "whole", 8)
    for name in ("metrics.jsonl", "eval/metrics.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
