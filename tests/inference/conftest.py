"""One small trained run, and its bundle, for all tests of using a model."""

import pytest

from softbio_jax.inference.run_bundle import from_run
from softbio_jax.train import loop
from tests.runs import tiny


@pytest.fixture(scope="session")
def workdir(data_root, tmp_path_factory):
    """A run of four steps, evaluated, with temperatures fitted on its validation rows."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny.changed(tiny.config_on(data_root), train__steps=4)
    loop.train_and_evaluate(*tiny.run_of(config), path)
    return path


@pytest.fixture(scope="session")
def bundle(workdir):
    return from_run(workdir)
