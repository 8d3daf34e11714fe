"""Layouts that the general readers take: class folders and tables, sorted by data set and name."""

from tests.data.layouts.tree import Tree, images


def _splits(root):
    images(root, "train/happy/0.jpg", "train/anger/1.jpg", "test/happy/2.jpg")


TREES = (
    Tree(
        name="folder_splits",
        layout="`{split}/{class}/`",
        flags="--dataset=folder --task=emotion",
        make=_splits,
        classes={"test": {"emotion": {"happy": 1}}, "train": {"emotion": {"happy": 1, "angry": 1}}},
    ),
)
