"""The section on the feature space: PCA and t-SNE of pooled features, coloured by label."""

import importlib.util
from collections.abc import Sequence

import numpy as np

from softbio_jax import coverage
from softbio_jax.evaluation import charts, evaluate
from softbio_jax.evaluation.report.document import Block, Figure, Figures, Section, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import MISSING, TASKS

MAX_POINTS = 1000  # per run; t-SNE takes seconds at this size and minutes at ten times it
SEED = 2025
HAS_T_SNE = importlib.util.find_spec("sklearn") is not None


def section(runs: Sequence[RunResults]) -> Section:
    """Returns both maps of every run that kept features, one figure per task and map."""
    blocks: list[Block] = []
    for run in (run for run in runs if not run.external):
        features, labels, sets = points(run)
        if len(features) < 10:
            blocks.append(Text(text=f"{run.name}: the evaluation kept no features."))
            continue
        colours = {
            task: (labels[task], tuple(coverage.marked_classes(run.images, task)))
            for task in TASKS
            if np.any(labels[task] != MISSING)
        }
        names = sorted(set(sets.tolist()))
        if len(names) > 1:
            colours["test set"] = (np.searchsorted(names, sets), tuple(names))
        places = {"PCA": pca(features)}
        if HAS_T_SNE:
            places["t-SNE"] = t_sne(features)
        items = tuple(
            Figure(
                name=f"{kind.lower().replace('-', '')}_{what.replace(' ', '_')}_{run.name}",
                caption=f"{run.name}: {kind} of pooled features, coloured by {what}.",
                figure=charts.scatter(
                    place, values, classes, title=f"{kind} by {what}", ordered=what == "age"
                ),
            )
            for kind, place in places.items()
            for what, (values, classes) in colours.items()
        )
        blocks.append(Figures(title=f"{run.name}: pooled features", items=items))
    if not HAS_T_SNE:
        blocks.append(Text(text="No t-SNE: it needs scikit-learn (pip install 'softbio-jax[report]')."))
    if any(isinstance(block, Figures) for block in blocks):
        text = f"At most {MAX_POINTS:,} test images per run, evenly spaced. "
        text += "Distances between clusters of a t-SNE map mean nothing."
        blocks.append(Text(text=text))
    return Section(title="Feature space", blocks=tuple(blocks))


def points(run: RunResults) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Returns a run's kept features (n, D), task -> labels (n,), and the test set of each point (n,)."""
    assert run.path is not None
    features, sets = [], []
    labels: dict[str, list[np.ndarray]] = {task: [] for task in TASKS}
    folder = run.path / evaluate.DIRECTORY / "features"
    files = {name: file for name in run.predictions if (file := folder / f"{name}.npz").exists()}
    for name, file in files.items():
        with np.load(file) as kept:
            rows, values = kept["rows"], kept["features"]
        chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_POINTS // len(files)).astype(int))
        features.append(values[chosen])
        sets += [name] * len(chosen)
        known = run.predictions[name].labels
        for task in TASKS:
            unknown = np.full(len(chosen), MISSING)
            labels[task].append(known[task][rows[chosen]] if task in known else unknown)
    if not features:
        return np.zeros((0, 0)), {}, np.array([])
    joined = {task: np.concatenate(values) for task, values in labels.items()}
    return np.concatenate(features), joined, np.array(sets)


def pca(features: np.ndarray, components: int = 2) -> np.ndarray:
    """Returns the first principal components (n, K) of features (n, D)."""
    left, scale, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    return (left * scale)[:, :components]


def t_sne(features: np.ndarray) -> np.ndarray:
    """Returns a t-SNE map (n, 2) of features (n, D), by scikit-learn, started from PCA."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = pca(features, min(50, *features.shape))
    perplexity = min(30.0, (len(features) - 1) / 3)
    # A thousand points are too few for threads, which would spend their time waiting.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(reduced)
