"""The rule tables: no rule twice, none dead, and every transform has its inverse."""

import numpy as np
import pytest

from softbio_jax.interop import formats
from softbio_jax.interop.keymap import (
    CONV,
    HEAD,
    SAME,
    SPLIT_ROWS,
    SPLIT_ROWS_TRANSPOSE,
    THIRDS,
    TRANSPOSE,
    KeyMap,
    Rule,
    hollow,
    lead,
)
from softbio_jax.interop.official import MASK, OFFICIAL
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import TEXT, VISION

TABLES = {"official": OFFICIAL, "timm": OFFICIAL_TO_TIMM}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_each_name_is_in_one_rule(table):
    sources = [rule.source for rule in table.rules]
    targets = [name for rule in table.rules for name in rule.target_names]
    assert len(set(sources)) == len(sources)
    assert len(set(targets)) == len(targets)


@pytest.mark.parametrize("name", TABLES)
def test_no_rule_is_dead(name):
    used = {MASK} if name == "official" else set()  # in files alone
    for variant in VISION:
        shapes = formats.official_shapes(variant, text=name == "official" and variant in TEXT)
        for rule in TABLES[name].rules:
            if any(rule.source.replace("{i}", "0") == key for key in shapes):
                used.add(rule.source)
    assert {rule.source for rule in TABLES[name].rules} == used


@pytest.mark.parametrize(
    ("transform", "shape", "shapes"),
    [
        (SAME, (3, 2), [(3, 2)]),
        (TRANSPOSE, (3, 2), [(2, 3)]),
        (CONV, (5, 3, 2, 4), [(2, 4, 3, 5)]),
        (SPLIT_ROWS, (6,), [(2,), (4,)]),
        (SPLIT_ROWS, (6, 3), [(2, 3), (4, 3)]),
        (SPLIT_ROWS_TRANSPOSE, (6, 3), [(3, 2), (3, 4)]),
        (THIRDS, (6, 3), [(2, 3)] * 3),
        (THIRDS, (6,), [(2,)] * 3),
        (HEAD, (3, 2), [(2, 3), (2,)]),
        (lead(2), (4,), [(1, 1, 4)]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_transform_has_its_inverse(transform, shape, shapes):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = transform.forward(array)
    assert [part.shape for part in parts] == shapes
    assert np.array_equal(transform.backward(*parts), array)


def test_an_unknown_name_or_half_of_a_pair_is_a_key_error():
    table = KeyMap([Rule("in_proj.{i}", ("q.{i}", "kv.{i}"), SPLIT_ROWS)])
    with pytest.raises(KeyError, match="in_proj"):
        table.forward(hollow({"in_proj.x": (6,)}))
    with pytest.raises(KeyError, match=r"kv\.2"):
        table.backward(hollow({"q.2": (2,)}))
    assert list(table.backward(hollow({"kv.2": (4,), "q.2": (2,)}))) == ["in_proj.2"]
