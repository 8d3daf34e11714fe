"""The thesis' printed results, in percent, for the columns named Paper.

Averages are as printed; `INCONSISTENT` names those that do not follow from their printed terms.
"""

from collections.abc import Mapping

# Key -> printed name and number of test images, which reveals another selection of the same name.
TEST_SETS: Mapping[str, tuple[str, int]] = {
    "fairface": ("FairFace", 10_954),
    "utkface": ("UTKFace", 24_102),
    "raf_db": ("RAF-DB", 2_869),
    "vggface2": ("VGGFace2", 169_372),
}
METHODS: Mapping[str, str] = {
    "zs": "ZS",
    "lp": "LP",
    "ap": "AP",
    "ft4": "FT_4",
    "full": "Full FT",
    "lora": "LoRA",
    "lora_plus": "LoRA+",
    "dora": "DoRA",
    "mtlora": "MTLoRA",
}

# Table 4.1: test set -> task -> accuracy of the zero-shot model.
ZERO_SHOT: Mapping[str, Mapping[str, float]] = {
    "utkface": {"age": 48.62, "gender": 96.63},
    "fairface": {"age": 46.11, "gender": 97.60},
    "raf_db": {"emotion": 66.57},
    "vggface2": {"age": 42.01, "gender": 95.78},
}
# Table 4.2.
ZERO_SHOT_AVERAGES = {"age": 47.36, "gender": 96.67, "emotion": 66.57, "overall": 69.61}
# Table 4.3: parameters and GFLOPs of the zero-shot model.
ZERO_SHOT_COST = {
    "text_encoder": 353_986_561,
    "visual_encoder": 318_212_106,
    "total": 671_137_793,
    "gflops": 699.76,
}

# Table 4.11: method -> averages; arrows against the single-task model of the same method.
AVERAGES: Mapping[str, Mapping[str, float]] = {
    "zs": {"emotion": 66.57, "age": 47.36, "gender": 96.67, "overall": 69.61},
    "lp": {"emotion": 84.91, "age": 61.28, "gender": 97.54, "overall": 78.76},
    "ft4": {"emotion": 88.43, "age": 63.00, "gender": 97.41, "overall": 82.94},
    "lora": {"emotion": 91.21, "age": 63.53, "gender": 97.49, "overall": 84.07},
    "mtlora": {"emotion": 90.06, "age": 64.03, "gender": 97.49, "overall": 83.88},
}
ARROWS: Mapping[str, Mapping[str, str]] = {
    "ft4": {"emotion": "↓", "age": "↑", "gender": "↓"},
    "lora": {"emotion": "↑", "age": "↑", "gender": "↓"},
    "mtlora": {"emotion": "↓", "age": "↑", "gender": "↓"},
}

# Table 4.12: name -> (test set, task) -> cell as printed.
SOTA_COLUMNS = (
    ("fairface", "age"),
    ("utkface", "age"),
    ("fairface", "gender"),
    ("utkface", "gender"),
    ("raf_db", "emotion"),
)
SOTA: Mapping[str, tuple[str, str, str, str, str]] = {
    "MiVOLO 224": ("61.07", "3.7 MAE", "95.73", "97.69", ""),
    "MiVOLO 384": ("62.28", "", "97.5", "", ""),
    "CLIP ViT-L/14 336": ("63.45", "", "97.1", "", ""),
    "ResEmoteNet": ("", "", "", "", "94.76 a"),
    "APViT": ("", "", "", "", "92.21 b"),
    "POSTER++": ("", "", "", "", "91.98 b"),
    "MTLoRA": ("64.11", "63.96", "97.62", "96.93", "90.06"),
    "LoRA": ("63.73", "63.34", "97.57", "96.90", "91.21"),
}
SOTA_NOTES = (
    "a: not reproduced by its users; retrained models stay near 80 %.",
    "b: the two rows are swapped in the thesis; published are APViT 91.98 and POSTER++ 92.21.",
    "RAF-DB: the thesis tests on 2,869 images (without those of uncertain gender), the published "
    "rows on all 3,068; these columns are not comparable.",
    "MiVOLO sees the body beside the face. UTKFace has no official split, and its age is usually "
    "an error in years; the 9-group accuracy has no peer outside the thesis.",
)

# Confusion matrices on RAF-DB: accuracy and balanced accuracy.
RAF_DB_BALANCED = {"mtlora": (90.06, 86.17), "lora": (91.21, 85.90), "APViT": (92.21, 86.36)}

INCONSISTENT: Mapping[tuple[str, str], str] = {
    ("zs", "overall"): "ZS overall 69.61 averages VGGFace2's synthetic ages in (69.607), against "
    "the table's own footnote; by the rule it is 70.20.",
    ("lp", "overall"): "LP overall 78.76 does not follow from its columns, which give 81.24.",
    ("mtlora", "overall"): "MTLoRA overall 83.88 is 0.02 above what its columns give (83.86).",
}


def test_set_key(name: str) -> str | None:
    """Returns the key of the thesis' test set that a name stands for, or None.

    "FairFace", "fairface/val", "synthetic_raf_db" and "RAF-DB" all have a key.
    """
    bare = "".join(c for c in name.lower() if c.isalnum())
    for key in TEST_SETS:
        if key.replace("_", "") in bare:
            return key
    return "utkface" if bare.startswith("utk") else None
