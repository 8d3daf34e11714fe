"""What the tests of all images share."""

import pytest

from tests.platforms import environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return environment.repository(tmp_path_factory.mktemp("repository"))
