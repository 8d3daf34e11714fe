"""A run directory's own config, against that of a run that would go on in it."""

import json

import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import directory
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import audit_hashes
from tests.runs.tiny import changed, run_of


@pytest.fixture
def edited(config, tmp_path):
    """Writes the record of a run as another version would have, some fields changed or left out."""

    def edit(change):
        run, data = run_of(config)
        directory.write_start(run, data, tmp_path, audits=audit_hashes(data))
        path = tmp_path / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
        return run.config

    return edit


def _without_younger_fields(values):
    del values["mesh"], values["train"]["cache_views"]


def test_a_field_younger_than_the_run_is_no_difference_at_its_default(edited, config, tmp_path):
    directory.check_workdir(edited(_without_younger_fields), tmp_path)
    other = config_from(changed(config, train__cache_views=2))
    with pytest.raises(UserError, match=r"found train\.cache_views was 1, is 2; fix"):
        directory.check_workdir(other, tmp_path)


def test_a_field_that_is_gone_is_no_difference_at_its_only_value(edited, tmp_path):
    now = edited(lambda values: values.update(pretext_classes=0))
    directory.check_workdir(now, tmp_path)
    assert directory.read_config(tmp_path) == now


def test_what_only_another_version_knows_is_told(edited, tmp_path):
    now = edited(lambda values: values.update(pretext_classes=7))
    with pytest.raises(UserError, match=r"unknown config key: config\.pretext_classes"):
        directory.check_workdir(now, tmp_path)
