"""How many shared pictures make a test set worthless; the rest is in test_thirty_mistakes."""

import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.runs import data as data_lib
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import open_all
from tests.data.trees import write_image
from tests.runs.tiny import changed


@pytest.mark.parametrize(("shared", "refused"), [(0, False), (1, False), (2, True)])
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_a_share_of_five_percent(config, tmp_path, shared, refused, val_fraction):
    raw = tmp_path / "raw"
    for split, first in (("train", 0), ("test", 24 - shared)):
        for i in range(24):
            write_image(raw / split / "happy" / f"{i}.png", first + i, kind="PNG")
    prepare.prepare("folder", source=str(raw), out=tmp_path / "mine", task="emotion")
    values = changed(
        config,
        tasks=("emotion",),
        data__root=str(tmp_path),
        data__train=("mine/train",),
        data__test=("mine/test",),
        data__val_fraction=val_fraction,
        train__batch_size=8,
    )
    data = open_all(config_from(values).data)
    if not refused:
        data_lib.check(data, tasks=("emotion",), batch_size=8)
        return
    with pytest.raises(UserError, match=f"found {shared} of 24"):
        data_lib.check(data, tasks=("emotion",), batch_size=8)
