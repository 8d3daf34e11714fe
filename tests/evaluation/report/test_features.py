"""Maps of the feature space."""

import numpy as np
from sklearn.decomposition import PCA

from softbio_jax.evaluation.report import features
from softbio_jax.tasks import MISSING


def test_pca_agrees_with_scikit_learn():
    values = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1] + 7
    ours, theirs = features.pca(values), PCA(2).fit_transform(values)
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, atol=1e-9)


def test_t_sne_keeps_far_clusters_apart_and_is_repeatable():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, (20, 8)), rng.normal(30, 1, (20, 8))])
    place = features.t_sne(values)
    np.testing.assert_array_equal(place, features.t_sne(values))
    centres = place[:20].mean(axis=0), place[20:].mean(axis=0)
    nearer = np.linalg.norm(place[:, None] - np.stack(centres), axis=2).argmin(axis=1)
    assert nearer.tolist() == [0] * 20 + [1] * 20


def test_points_belong_to_their_labels(loaded):
    values, labels, sets = features.points(loaded[0])
    known = loaded[0].predictions["fairface"].labels["age"]
    assert values.shape == (40, 8)
    np.testing.assert_array_equal(labels["age"], known)
    assert (labels["emotion"] == MISSING).all()
    assert set(sets) == {"fairface"}


def test_without_scikit_learn_there_is_pca_and_a_word_on_t_sne(loaded, monkeypatch):
    monkeypatch.setattr(features, "HAS_T_SNE", False)
    section = features.section(loaded[:1])
    assert {figure.name.split("_")[0] for figure in section.blocks[0].items} == {"pca"}
    assert any("softbio-jax[report]" in getattr(block, "text", "") for block in section.blocks)


def test_a_run_without_features_says_so(loaded):
    section = features.section([loaded[2]])
    (block,) = section.blocks
    assert "kept no features" in block.text
