"""Layouts of known data sets, sorted by data set and name."""

from tests.data.layouts.tree import Tree
from tests.data.trees import make_fairface

TREES = (
    Tree(
        name="fairface_official",
        layout="`fairface_label_{train,val}.csv`, `train/`, `val/`",
        flags="--dataset=fairface",
        make=lambda root: make_fairface(root, train=2, val=1),
        classes={
            "train": {"age": {"0-2": 1, "3-9": 1}, "gender": {"male": 1, "female": 1}},
            "val": {"age": {"0-2": 1}, "gender": {"male": 1}},
        },
    ),
)
