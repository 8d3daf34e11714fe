"""What complete copies of the data sets contain, to tell an incomplete one."""

from __future__ import annotations

from collections.abc import Mapping

# (set, split) -> task -> rows of each class; a key "rows" holds the number of rows alone. A set is
# named as `set_of` does; rafdb is RAF-DB by the thesis' filter.
CLASS_COUNTS: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("fairface", "train"): {
        "rows": (86_744,),
        "age": (1792, 10408, 9103, 25598, 19250, 10744, 6228, 2779, 842),
        "gender": (45_986, 40_758),
    },
    ("fairface", "val"): {
        "rows": (10_954,),
        "age": (199, 1356, 1181, 3300, 2330, 1353, 796, 321, 118),
        "gender": (5_792, 5_162),
    },
    ("lagenda", "train"): {
        "rows": (84_190,),
        "age": (1886, 9263, 10861, 11631, 11367, 11722, 11754, 10379, 5327),
        "gender": (41_456, 42_734),
    },
    ("celeba_hq", "train"): {"rows": (28_000,), "gender": (10_057, 17_943)},
    ("celeba_hq", "val"): {"rows": (2_000,), "gender": (1_000, 1_000)},
    ("rafdb", "train"): {
        "rows": (11_519,),
        "gender": (4_957, 6_562),
        "emotion": (1151, 277, 702, 4640, 1627, 693, 2429),
    },
    ("rafdb", "test"): {
        "rows": (2_869,),
        "gender": (1_249, 1_620),
        "emotion": (297, 74, 158, 1141, 386, 159, 654),
    },
    ("utkface", "test"): {"rows": (23_705,)},
    # The official part, which --raf_filter=official keeps; genders are not published.
    ("rafdb official", "train"): {
        "rows": (12_271,),
        "emotion": (1290, 281, 717, 4772, 1982, 705, 2524),
    },
    ("rafdb official", "test"): {
        "rows": (3_068,),
        "emotion": (329, 74, 160, 1185, 478, 162, 680),
    },
    ("fer2013", "train"): {
        "rows": (28_709,),
        "emotion": (3171, 4097, 436, 7215, 4830, 3995, 4965),
    },
    ("fer2013", "val"): {"rows": (3_589,)},
    ("fer2013", "test"): {"rows": (3_589,)},
}


def set_of(builder: str, protocol: Mapping[str, str]) -> str:
    """Names what a prepared folder is a copy of.

    Args:
      builder: what read it, `dataset` in its report.
      protocol: the choices made, `protocol` in its report.

    Returns:
      The builder's name, and "rafdb official" for RAF-DB with the pictures of unsure gender in.
    """
    return f"{builder} official" if protocol.get("raf_filter") == "official" else builder
