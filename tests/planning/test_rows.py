"""Rows of a plan: kept between runs, and shown."""

import dataclasses
import json

import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning import table
from softbio_jax.planning.fit import PUBLIC_ROWS, Fit, epoch_images
from softbio_jax.planning.saved import SavedRows
from softbio_jax.runs.config import config_from
from tests.runs.tiny import SETS, changed, config_on

GIB = 2**30
FITS = Fit(
    chips=8,
    batch_size=128,
    remat="full",
    fits=True,
    arguments=GIB,
    temporaries=3 * GIB,
    limit=16 * GIB,
    flops=150 * 10**12,
    traffic=80 * 10**9,
    compute_seconds=0.1,
    memory_seconds=0.2,
)
TOO_LARGE = Fit(
    chips=8,
    batch_size=1280,
    remat="full",
    fits=False,
    needed="Used 27.1G of 15.75G hbm",
    limit=16 * GIB,
    flops=1500 * 10**12,
    compute_seconds=1.0,
)


def _config(**values):
    return config_from(changed(config_on("nowhere"), **values))


def test_rows_are_kept_by_topology_config_and_batch(tmp_path):
    path, config = tmp_path / "plans" / "rows.json", _config()
    SavedRows(path).add(config, "v5e:2x4", FITS)
    saved = SavedRows(path)
    assert saved.get(config, "v5e:2x4") == FITS
    assert saved.get(config, "v5e:4x4") is None
    assert saved.get(_config(train__batch_size=64), "v5e:2x4") is None
    assert saved.get(_config(compute={"remat": "full"}), "v5e:2x4") is None
    # What the compiled step does not depend on.
    assert saved.get(_config(data__root="elsewhere"), "v5e:2x4") == FITS
    SavedRows(path).add(_config(seed=4, tasks=("age",)), "v5e:2x4", FITS)  # meanwhile
    saved.add(config, "v5e:4x4", TOO_LARGE)
    assert len(SavedRows(path)._rows) == 3
    assert SavedRows(path).get(config, "v5e:4x4") == TOO_LARGE
    assert [row["versions"][:3] for row in json.loads(path.read_text())["rows"]] == ["jax"] * 3


def test_the_same_chips_give_the_first_guess():
    saved = SavedRows(None)
    assert saved.largest_rows("v5e:2x4", "full") == 0
    saved.add(_config(), "v5e:2x4", FITS)
    saved.add(_config(), "v5e:2x4", TOO_LARGE)
    assert saved.largest_rows("v5e:16x16", "full") == 16
    assert saved.largest_rows("v5e:16x16", "none") == saved.largest_rows("v6e:2x4", "full") == 0


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{"fit": {"chips": 8}}]}', '{"rows": 5}'])
def test_a_file_of_something_else_is_reported_and_not_changed(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not the rows of a plan"):
        SavedRows(path)
    assert path.read_text() == text


def test_a_row_shows_both_bounds():
    head, shown = table.HEADER, table.row(FITS, epoch_images=168_362)
    assert len(head) == len(shown)
    # 128 images in 0.2 s by memory; the epoch at that rate.
    for value in ("16", "128", "1.00 GiB", "3.00 GiB", "25 %", "80.0", "640", "memory", "4.4 min"):
        assert f" {value}" in shown
    refused = table.row(TOO_LARGE, epoch_images=168_362)
    assert len(refused) == len(head) and "does not fit" in refused and "169 %" in refused
    assert "images" not in refused and "compute" not in refused


def test_details_and_verdict():
    shown = table.details(FITS, epoch_images=6400)
    assert "640 images/s at most, by memory" in shown and "10.0 s at least, 6,400 images" in shown
    assert "80.000 GB read and written, loops multiplied out" in shown
    assert table.verdict(FITS, topology="v5e:2x4") == (
        "fits: batch 128 with remat full on v5e:2x4: 4.00 GiB per chip (25 % of 16.00 GiB)"
    )
    assert table.verdict(TOO_LARGE, topology="v5e:2x4").endswith("Used 27.1G of 15.75G hbm")
    assert "needed" in table.details(TOO_LARGE) and "temporaries" not in table.details(TOO_LARGE)


def test_the_highest_bound_is_not_always_the_largest_batchs():
    small = dataclasses.replace(FITS, batch_size=64, remat="none", compute_seconds=0.05, memory_seconds=0.08)
    unknown = dataclasses.replace(FITS, compute_seconds=0, memory_seconds=0)
    assert table.highest_bound([FITS, small, TOO_LARGE, unknown]) == (
        "highest bound: batch 64 with remat none: 800 images/s at most, by memory"
    )
    assert table.highest_bound([TOO_LARGE, unknown]) == ""


def test_an_epoch_is_that_of_the_prepared_or_of_the_public_data_sets(data_root):
    here = config_from(config_on(data_root)).data
    rows = sum(SETS[name.partition("/")[0]][0] for name in here.train)
    images, source = epoch_images(here)
    assert rows * 0.7 < images < rows * 0.8 and "prepared" in source
    assert epoch_images(dataclasses.replace(here, val_fraction=0.0))[0] == rows
    assert epoch_images(dataclasses.replace(here, root="nowhere"))[0] == PUBLIC_ROWS == 168_362
