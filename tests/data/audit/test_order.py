"""Classes in another order, known by the counts of complete copies."""

import pytest

from softbio_jax.data.audit import expected, findings
from softbio_jax.data.audit.expected import CLASS_COUNTS
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS
from tests.data.trees import make_fairface, prepared_split

# Of as many men as women nothing can be told.
EQUAL = ("celeba_hq", "val")
KNOWN = [
    (*key, task) for key, counts in CLASS_COUNTS.items() for task in counts if task in TASKS and key != EQUAL
]


def _given(builder, split, task, change):
    counts = CLASS_COUNTS[builder, split]
    rows = counts["rows"][0]
    return expected.exchanged(builder, split, rows=rows, counts={task: change(list(counts[task]))})


@pytest.mark.parametrize(("builder", "split", "task"), KNOWN)
def test_a_complete_copy_is_in_order_and_its_reverse_is_not(builder, split, task):
    assert _given(builder, split, task, lambda counts: counts) == {}
    assert set(_given(builder, split, task, lambda counts: counts[::-1])) == {task}


@pytest.mark.parametrize(("builder", "split", "task"), KNOWN)
def test_every_known_count_is_that_of_all_its_rows(builder, split, task):
    counts = CLASS_COUNTS[builder, split]
    assert sum(counts[task]) == counts["rows"][0]


def test_the_order_is_named():
    fer_for_ours = (5, 2, 1, 3, 4, 0, 6)
    found = _given("rafdb", "test", "emotion", lambda counts: [counts[i] for i in fer_for_ours])
    assert found == {"emotion": "surprise is angry, fear is disgust, disgust is fear, angry is surprise"}


def test_equal_counts_and_parts_of_a_set_are_taken_as_they_are():
    assert _given(*EQUAL, "gender", lambda counts: counts[::-1]) == {}
    part = {"gender": (900, 1_000)}
    assert expected.exchanged("fairface", "train", rows=1_900, counts=part) == {}


def test_a_few_rejected_images_do_not_hide_it():
    counts = {"gender": (40_758 - 90, 45_986 - 60)}
    assert expected.exchanged("fairface", "train", rows=86_594, counts=counts) == {
        "gender": "male is female, female is male"
    }
    with pytest.raises(UserError, match="gender classes in another order: split 'train'"):
        expected.check("fairface", "train", rows=86_594, counts=counts)


def test_the_audit_tells_it(tmp_path, monkeypatch):
    raw = make_fairface(tmp_path / "raw", train=12, val=5)
    dataset, _ = prepared_split("fairface", raw, tmp_path / "out", "val")
    digests = findings.digests_of(dataset.directory, "val")
    known = {"rows": (5,), "gender": (2, 3)}  # it has 3 men and 2 women
    monkeypatch.setitem(CLASS_COUNTS, ("fairface", "val"), known)
    found = findings.audit([dataset], sets=["fairface"], digests=[digests])
    told = found["splits"]["out/val"]["expected"]["exchanged"]
    assert told == {"gender": "male is female, female is male"}
