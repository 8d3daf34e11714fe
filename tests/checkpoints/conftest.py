import pytest

from tests.train import tiny


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    tiny.prepare_sets(root)
    return root


@pytest.fixture
def config(data_root):
    return tiny.config_on(data_root)
