"""A run directory's own config, against that of a run that would go on in it."""

import json

import pytest

from softbio_jax.data.audit import verdict
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


_DAMAGED = [b"", b'{"best_step": ', b"\0" * 512, b"\xff", b"[]", b"null", b"[" * 100_000]


@pytest.mark.parametrize("content", _DAMAGED)
def test_a_damaged_record_is_one_line_that_names_it(tmp_path, content):
    for name, read in (
        ("config.json", directory.read_config),
        ("run.json", directory.read_best),
        ("run.json", lambda workdir: directory.update(workdir, {"a": 1})),
        ("audit_verdict.json", verdict.load),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"a damaged .*{name}") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
        assert (tmp_path / name).read_bytes() == content


def test_the_identity_of_a_run_has_what_its_steps_depend_on(config):
    base = directory.identity(config_from(config))
    for change in ({"seed": 9}, {"optimizer__rates__heads": 0.5}, {"train__batch_size": 32}):
        assert directory.identity(config_from(changed(config, **change))) != base
    for change in ({"data__root": "/else"}, {"train__keep": 9}, {"train__microbatches": 2}):
        assert directory.identity(config_from(changed(config, **change))) == base
