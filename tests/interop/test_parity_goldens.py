"""The port against stored outputs of the official code: every rung, every size of tower.

Weights and images are drawn by name, with the query and key rows of every block scaled by 3, so
that position bugs show; half of the inputs are not square.
"""

import functools
import pathlib

import numpy as np
import pytest

from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.models.config import ComputeConfig

FOLDER = pathlib.Path(__file__).parent.parent / "goldens"


@functools.lru_cache(maxsize=1)  # the cases are ordered by tower; the largest takes 1.3 GB
def vision_state(config):
    return named_state(official.vision_shapes(config))


@pytest.mark.parametrize("case", goldens.CASES, ids=lambda case: case.name)
def test_every_rung_agrees(case):
    rungs = ladder.vision_rungs(case.config, vision_state(case.config), case.images())
    if case.text_config is not None:
        state = named_state(official.text_shapes(case.text_config))
        ids = goldens.text_ids(case.text_config.context)
        rungs |= ladder.text_rungs(case.text_config, state, ids, rungs["embedding"])
    reference = goldens.load(FOLDER, case)
    assert list(reference) == list(rungs), "every stage is stored, and no other"
    noise = goldens.rounding(FOLDER, case)
    assert noise is None or list(noise) == list(rungs)  # absolute bounds where it was not measured
    compared = list(ladder.compare(goldens.sampled(rungs), reference, noise=noise))
    assert [rung for rung in compared if not rung.holds] == []


def test_the_stored_cases_cover_the_family():
    of = [(case.config, case.text) for case in goldens.CASES]
    released = {config.name for config, _ in of if config.name.startswith("PE-")}
    assert {f"PE-Core-{size}" for size in ("T16-384", "S16-384", "B16-224", "L14-336")} <= {
        case.variant for case in goldens.CASES if case.text and case.layers is None
    }
    assert {name.split("-")[1] for name in released} == {"Core", "Lang", "Spatial"}
    assert {config.pooling for config, _ in of} == {"attn", "tok", "avg", "tok+avg", "none"}
    assert {config.class_token for config, _ in of} == {True, False}
    assert {config.layer_scale is None for config, _ in of} == {True, False}
    assert {config.head_dim for config, _ in of} >= {64, 96}


@pytest.mark.long
def test_every_rung_agrees_with_the_kernel_for_tpus():
    (case, *_) = [case for case in goldens.CASES if case.variant == "PE-Core-T16-384" and case.text]
    compute = ComputeConfig(attention="pallas_interpret")
    state = vision_state(case.config)
    rungs = ladder.vision_rungs(case.config, state, case.images(), compute=compute)
    reference, noise = goldens.load(FOLDER, case), goldens.rounding(FOLDER, case)
    reference = {name: reference[name] for name in rungs}
    compared = list(ladder.compare(goldens.sampled(rungs), reference, noise=noise))
    assert [rung for rung in compared if not rung.holds] == []


def test_bfloat16_stays_within_its_own_bound_and_not_within_float32s():
    case = next(case for case in goldens.CASES if case.variant == "PE-Core-T16-384")
    compute = ComputeConfig(dtype="bfloat16")
    state = vision_state(case.config)
    rungs = ladder.vision_rungs(case.config, state, case.images(), compute=compute)
    reference = goldens.load(FOLDER, case)
    found, holds = goldens.sampled(rungs), {}
    for dtype, limits in ladder.LIMITS.items():
        compared = ladder.compare(found, reference, limits=limits)
        holds[dtype] = {rung.name: rung.holds for rung in compared}
    assert all(holds["bfloat16"].values())
    assert not holds["float32"]["embedding_normalised"]


def test_a_golden_is_written_only_where_it_changes(tmp_path):
    case = next(case for case in goldens.CASES if case.variant == "tiny-faces")
    rungs = goldens.load(FOLDER, case)
    assert goldens.store(tmp_path, case, rungs) == "new"
    path = tmp_path / f"{case.name}.npz"
    first = path.read_bytes()
    noisy = {name: array * np.float32(1 + 2e-7) for name, array in rungs.items()}
    assert goldens.store(tmp_path, case, noisy) == ""
    assert path.read_bytes() == first
    moved = rungs | {"embedding_normalised": rungs["embedding_normalised"] + np.float32(1e-5)}
    assert goldens.store(tmp_path, case, moved) == "embedding_normalised by 1.0e-05"
    assert np.array_equal(goldens.load(tmp_path, case)["embedding_normalised"], moved["embedding_normalised"])
    del moved["tokens"]
    assert goldens.store(tmp_path, case, moved) == "other stages"


def test_the_limit_follows_the_rounding_of_the_reference():
    exact = {"rotary": np.ones(3), "tokens": np.ones(3), "embedding_normalised": np.full(3, 0.5)}
    reference = {name: (array + 1e-3).astype(np.float32) for name, array in exact.items()}
    noise = ladder.rounding(reference, exact)
    assert noise["tokens"] == pytest.approx(1e-3, rel=1e-3)
    for factor, holds in ((3.9, True), (4.1, False)):
        ours = {name: array + np.float32(factor * 1e-3) for name, array in reference.items()}
        found = {rung.name: rung for rung in ladder.compare(ours, reference, noise=noise)}
        assert found["tokens"].holds == found["embedding_normalised"].holds == holds
        assert not found["rotary"].holds  # a table has no rounding to speak of
        assert found["tokens"].noise == noise["tokens"]
    alike = ladder.compare(exact, exact, noise=dict.fromkeys(exact, 0.0))
    assert {rung.name: rung.limit for rung in alike}["tokens"] == 1e-6  # never nothing


def test_the_rounding_of_logits_is_at_least_that_of_the_embeddings():
    exact = {"embedding_normalised": np.array([[0.6, 0.8]]), "text_normalised": np.array([[1.0, 0.0]])}
    exact["logits"] = 100 * exact["embedding_normalised"] @ exact["text_normalised"].T
    reference = exact | {"embedding_normalised": np.array([[0.6, 0.8 + 1e-6]])}  # the logit does not see it
    assert ladder.rounding(reference, exact)["logits"] == pytest.approx(1e-4)


def test_the_rounding_of_a_golden_is_rewritten_only_where_it_is_another(tmp_path):
    case, other = goldens.CASES[:2]
    noise = {"tokens": 1e-6, "rotary": 0.0}
    assert goldens.rounding(tmp_path, case) is None
    assert goldens.store_rounding(tmp_path, case, noise)
    assert goldens.store_rounding(tmp_path, other, noise)
    first = (tmp_path / goldens.ROUNDING).read_bytes()
    assert not goldens.store_rounding(tmp_path, case, {"tokens": 2e-6, "rotary": 1e-10})  # another machine's
    assert (tmp_path / goldens.ROUNDING).read_bytes() == first
    assert goldens.store_rounding(tmp_path, case, {"tokens": 1e-5, "rotary": 0.0})
    assert goldens.rounding(tmp_path, case)["tokens"] == 1e-5
    assert goldens.rounding(tmp_path, other) == noise
