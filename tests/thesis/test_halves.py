"""The part that pretrains and the part that adapts: disjoint, stable, and kept apart."""

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import open_all
from softbio_jax.thesis.study.pretext import halves, identities, open_run, pretraining_rows
from tests.thesis.small_study import study_on

IDS = np.array([f"train/{i}.jpg" for i in range(101)])


def test_the_parts_are_disjoint_and_complete():
    first, second = halves(IDS, fraction=0.5, seed=1)
    assert len(first) == 50 and len(second) == 51
    assert sorted([*first, *second]) == list(range(101))


def test_the_order_of_the_rows_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(IDS)
    first, again = (set(ids[halves(ids, fraction=0.3, seed=1)[0]]) for ids in (IDS, shuffled))
    assert first == again
    assert set(IDS[halves(IDS, fraction=0.3, seed=2)[0]]) != first


def test_a_known_split_stays_what_it_is():
    first, _ = halves(["a", "b", "c", "d"], fraction=0.5, seed=2025)
    assert [["a", "b", "c", "d"][row] for row in first] == ["a", "d"]


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_an_empty_part_is_reported(fraction):
    with pytest.raises(UserError, match="a part without images"):
        halves(IDS, fraction=fraction, seed=0)


def test_no_run_sees_an_image_that_pretrained_the_encoder(data_root):
    study = study_on(data_root)
    used = set(pretraining_rows(study.pretrain, study.data_root).columns["id"])
    config = config_from(study.cells["lora"]).data
    data, whole = open_run(config, study.pretrain), open_all(config)
    seen = {
        name
        for _, dataset in data.entries()
        if dataset.name == "synthetic_fairface"
        for name in dataset.columns["id"]
    }
    assert len(used) == 20 and len(seen) == 20 and not used & seen
    assert [len(part) for part in data.train] == [15, 24]
    assert [part.fingerprint for part in data.test] == [part.fingerprint for part in whole.test]
    assert [part.fingerprint for part in open_run(config, None).train] == [
        part.fingerprint for part in whole.train
    ]


def test_the_parts_are_identified_by_their_ids(data_root):
    study = study_on(data_root)
    found = identities(study.pretrain, study.data_root)
    assert [found[part]["n"] for part in ("pretraining", "adaptation")] == [20, 20]
    assert found["pretraining"]["ids_sha256"] != found["adaptation"]["ids_sha256"]
    assert found == identities(study.pretrain, study.data_root)
