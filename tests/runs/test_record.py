"""A run directory's own config, against that of a run that would go on in it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from softbio_jax.data import index
from softbio_jax.data import index as index_lib
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.runs import directory
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import audit_hashes, open_all
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
        ("audit_verdict.json", index.load_verdict),
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


@pytest.fixture
def prepared_anew(config, data_root, tmp_path):
    """Writes the record of a run; returns its data after a set was prepared with other images."""

    def make(name, **options):
        run, data = run_of(config)
        directory.write_start(run, data, tmp_path / "run", audits=audit_hashes(data))
        root = tmp_path / "data"
        shutil.copytree(data_root, root)
        prepare.prepare("synthetic", source=name, out=root / name, overwrite=True, **options)
        return open_all(dataclasses.replace(run.config.data, root=str(root)))

    return make


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("synthetic_utkface", {"size": 24, "count": 0, "test_count": 16}, "test/synthetic_utkface/test"),
        ("synthetic_utkface", {"size": 32, "count": 0, "test_count": 15}, "test/synthetic_utkface/test"),
        ("synthetic_fairface", {"size": 24, "count": 40, "test_count": 16}, "train/synthetic_fairface/train"),
    ],
)
def test_data_prepared_anew_with_other_images_are_named(prepared_anew, tmp_path, name, options, named):
    data = prepared_anew(name, **options)
    before = json.loads((tmp_path / "run" / "run.json").read_text())["data"][named]["fingerprint"]
    found = str(directory.changed_data(data, tmp_path / "run"))
    assert f"{named} in {tmp_path / 'data' / name}" in found and before[:12] in found
    assert dict(data.entries())[named].fingerprint[:12] in found and "--data" in found
    assert ("1 more sets differ" in found) == named.startswith("train")  # its validation rows


def test_data_prepared_anew_from_the_same_images_are_the_same(prepared_anew, tmp_path):
    data = prepared_anew("synthetic_utkface", size=32, count=0, test_count=16)
    assert directory.changed_data(data, tmp_path / "run") is None


def _older(folder, split):
    """Makes a prepared split one of version 0.1."""
    old = dataclasses.replace(index_lib.read(folder, split), checks=None, columns={})
    arrays = {"ids": old.ids, "digests": old.digests}
    np.savez_compressed(
        index_lib.path_of(folder, split), **arrays, **{f"labels/{t}": v for t, v in old.labels.items()}
    )
    (folder / index_lib.REPORT).unlink()


def test_data_of_a_run_of_an_older_version_may_be_prepared_with_this_one(config, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / "old")
    for name, split in (("synthetic_utkface", "test"), ("synthetic_fairface", "train")):
        _older(tmp_path / "old" / name, split)
    run, old = run_of(changed(config, data__root=str(tmp_path / "old")))
    directory.write_start(run, old, tmp_path, audits=audit_hashes(old))
    _, now = run_of(config)
    assert dict(old.entries()).keys() == dict(now.entries()).keys()
    for before, after in zip(old.val, now.val, strict=True):
        assert (before.fingerprint == after.fingerprint) == ("fairface" not in before.name)
    assert directory.changed_data(now, tmp_path) is None


@pytest.mark.parametrize("content", [None, "{}", '{"data": {}}', '{"data": {"test/a/b": {"n": 3}}}'])
def test_a_record_without_fingerprints_and_a_set_it_lacks_are_no_change(config, tmp_path, content):
    _, data = run_of(config)
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert directory.changed_data(data, tmp_path) is None
