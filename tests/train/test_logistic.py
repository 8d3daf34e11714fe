"""Linear probes by lbfgs: the minimum that scikit-learn finds, chosen by validation, in an ordinary run."""

import io
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from configs import finetune
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.evaluation.evaluate import evaluate_run
from softbio_jax.runs import build, parallel
from softbio_jax.runs.restore import restore_run
from softbio_jax.runs.session import Session
from softbio_jax.tasks import MISSING, TASKS
from softbio_jax.train import loop
from softbio_jax.train.preemption import Preempted, Preemption
from softbio_jax.train.probing import logistic, sweep
from softbio_jax.train.probing.logistic import Basis, LogisticSession, cost, minimise
from tests.recording import Recording
from tests.runs.tiny import changed, config_on, run_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
STRENGTHS = (0.3, 3.0, 30.0, 300.0)


def _rows(n=300, width=12, classes=4, *, seed=0):
    """Correlated features, not standardised, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * 0.7 + rng.normal(size=width)
    logits = (values - values.mean(axis=0)) @ rng.normal(size=(width, classes)) * 0.3 + rng.gumbel(
        size=(n, classes)
    )
    return values.astype(np.float32), logits.argmax(axis=1).astype(np.int32)


def _scikit_learn(values, labels, l2, classes):
    """The float64 solution: kernel (D, C) and bias (C,), zeros and a low one of classes without a row."""
    present = np.unique(labels)
    # Of two classes it has one logit, their difference: half of it each, whose squares add up to half.
    half = len(present) == 2
    model = LogisticRegression(C=2 / l2 if half else 1 / l2, tol=1e-10, max_iter=10_000)
    found = model.fit(values.astype(np.float64), labels)
    coefficients, intercepts = found.coef_, found.intercept_
    if half:
        coefficients, intercepts = (np.concatenate([-x, x]) / 2 for x in (coefficients, intercepts))
    kernel, bias = np.zeros((values.shape[1], classes)), np.full(classes, -50.0)
    kernel[:, present], bias[present] = coefficients.T, intercepts
    return kernel, bias


def _standardised(values, over=None):
    over = (values if over is None else over).astype(np.float64)
    return (values - over.mean(axis=0)) / np.sqrt(over.var(axis=0) + 1e-5)


def _solved(values, labels, l2, *, devices=None, iterations=1000, classes=4, normed=True):
    basis = Basis.of(values, normed=normed)
    start = {
        "kernel": np.zeros((values.shape[1], classes), np.float32),
        "bias": np.zeros(classes, np.float32),
    }
    with jax.default_matmul_precision("highest"):
        rows = basis.place(values, labels, parallel.make_mesh(devices=devices))
        fit = minimise(rows, basis.variances, start, np.float32(l2), iterations=iterations)
    return fit._replace(layer=basis.head(fit.layer, normed=normed))


@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0, 1000.0, 1e6])
def test_the_minimum_is_that_of_scikit_learn(l2):
    values, labels = _rows()
    fit = _solved(values, labels, l2)
    kernel, bias = _scikit_learn(_standardised(values), labels, l2, 4)
    np.testing.assert_allclose(fit.layer["kernel"], kernel, atol=1e-4)
    # Biases are determined up to a constant, which a penalty of none leaves free.
    ours = np.asarray(fit.layer["bias"])
    np.testing.assert_allclose(ours - ours.mean(), bias - bias.mean(), atol=1e-4)
    assert float(fit.gradient) <= 2e-6


def test_the_gradient_of_the_minimum_is_zero_in_float64():
    values, labels = _rows()
    fit = _solved(values, labels, 10.0)
    x, kernel = _standardised(values), np.asarray(fit.layer["kernel"], np.float64)
    logits = x @ kernel + np.asarray(fit.layer["bias"], np.float64)
    error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(4)[labels]
    np.testing.assert_allclose(x.T @ error / len(x) + 10.0 / len(x) * kernel, 0, atol=3e-6)
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=3e-6)


def test_eight_devices_find_the_minimum_of_one_and_padding_does_not_count():
    values, labels = _rows(n=301)
    one, all_ = (_solved(values, labels, 3.0, devices=jax.devices()[:n]) for n in (1, 8))
    np.testing.assert_allclose(all_.layer["kernel"], one.layer["kernel"], atol=3e-5)
    assert float(all_.loss) == pytest.approx(float(one.loss), rel=1e-6)


@pytest.mark.long
def test_few_iterations_are_reported_as_not_solved(trained, data_root):
    config = _config(data_root, trained[0], optimizer__l2=[0.3], optimizer__iterations=2)
    session, said = _session(config)
    (metrics,) = session.push({})
    assert metrics["iterations/gender"] == 2
    assert "is not solved" in said.getvalue()


def _config(data_root, folder, **changes):
    config = changed(
        config_on(data_root),
        method={"name": "lp"},
        model__head__dropout=0.0,
        optimizer={"name": "lbfgs", "rates": {}, "l2": STRENGTHS},
        balancing={"kind": "fixed"},
        train__steps=1,
        train__cache_features=True,
        train__cache_dir=str(folder / "features"),
    )
    return changed(config, **changes)


def _session(config):
    run, data = run_of(config)
    session, said = LogisticSession(run), io.StringIO()
    session.cache(data, pathlib.Path(config["train"]["cache_dir"]), console=Console(out=said))
    return session, said


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A run, its features and labels per task and role, and its restored session."""
    folder = tmp_path_factory.mktemp("lbfgs")
    config = _config(data_root, folder)
    summary = loop.train_and_evaluate(*run_of(config), folder / "run")
    return folder, config, summary


@pytest.fixture(scope="module")
def columns(trained):
    """task -> labelled features and labels of training and validation rows, from the encoder itself."""
    run, data = run_of(trained[1])
    session, parts = Session(run), {"gender": [], "emotion": []}
    for sets in (data.train, data.val):
        found = [session.predict(item, feature_rows=np.arange(len(item))) for item in sets]
        features = np.concatenate([out.features for out in found])
        for task, pairs in parts.items():
            labels = np.concatenate([out.labels[task] for out in found])
            pairs.append((features[labels != MISSING], labels[labels != MISSING]))
    return parts


def _cross_entropy(kernel, bias, x, labels):
    logits = x @ kernel + bias
    top = logits.max(axis=1, keepdims=True)
    return np.mean((np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]) - logits[np.arange(len(x)), labels])


def test_a_run_keeps_the_strength_of_each_tasks_lowest_validation_loss(trained, columns):
    folder = trained[0]
    (line,) = [json.loads(text) for text in (folder / "run/metrics.jsonl").read_text().splitlines()][:1]
    session, chosen = restore_run(folder / "run"), set()
    for task in ("gender", "emotion"):  # age has classes without a row
        (values, labels), (held, answers) = columns[task]
        x, y = _standardised(values), _standardised(held, over=values)
        known = np.isin(answers, labels)  # the others are lost at any strength
        fits = {l2: _scikit_learn(x, labels, l2, TASKS[task].num_classes) for l2 in STRENGTHS}
        losses = {l2: _cross_entropy(*fit, y[known], answers[known]) for l2, fit in fits.items()}
        best = min(losses, key=losses.get)
        assert line[f"train/l2/{task}"] == pytest.approx(best)
        assert line[f"train/count/{task}"] == len(labels)
        chosen.add(best)
        head = session.state.trainable["heads"][task]["dense_out"]
        np.testing.assert_allclose(head["kernel"], fits[best][0], atol=2e-4)
    assert len(chosen) == 2  # each task has its own


def test_the_run_is_evaluated_and_restored_like_any_other(trained, columns):
    folder, _, summary = trained
    assert summary["temperatures"].keys() == {"age", "gender", "emotion"}
    again = evaluate_run(folder / "run")
    assert again["averages"] == summary["averages"]
    stats = restore_run(folder / "run").state.batch_stats["heads"]
    (values, _), _ = columns["emotion"]
    np.testing.assert_allclose(stats["emotion"]["norm"]["mean"], values.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stats["emotion"]["norm"]["var"], values.var(axis=0), rtol=1e-4, atol=1e-7)


def test_a_finished_run_is_not_solved_again(trained, monkeypatch):
    folder, config, summary = trained
    monkeypatch.setattr(LogisticSession, "push", None)
    assert loop.train_and_evaluate(*run_of(config), folder / "run")["averages"] == summary["averages"]


@pytest.mark.long
def test_sigterm_between_two_strengths_leaves_nothing_and_the_next_start_solves(
    data_root, tmp_path, monkeypatch, trained
):
    config = _config(data_root, trained[0])
    preemption, solve, calls = Preemption(), logistic.minimise, []

    def interrupted(*arguments, **named):
        calls.append(0)
        if len(calls) == 3:
            preemption._note()
        return solve(*arguments, **named)

    monkeypatch.setattr(logistic, "minimise", interrupted)
    with pytest.raises(Preempted):
        loop.train_and_evaluate(*run_of(config), tmp_path, preemption=preemption)
    assert len(calls) == 3
    assert not list(tmp_path.glob("checkpoints/*"))
    loop.train_and_evaluate(*run_of(config), tmp_path)
    ours, theirs = (restore_run(path).state.trainable for path in (tmp_path, trained[0] / "run"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_refit_reads_the_validation_rows_too_at_the_chosen_strength(trained, columns, data_root, tmp_path):
    config = _config(data_root, trained[0], optimizer__refit=True)
    summary = loop.train_and_evaluate(*run_of(config), tmp_path)
    assert summary["temperatures"] == {}  # no rows are left to fit them on
    assert evaluate_run(tmp_path)["temperatures"] == {}
    lines = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        for folder in (tmp_path, trained[0] / "run")
    ]
    assert lines[0]["train/l2/emotion"] == lines[1]["train/l2/emotion"]
    (values, labels), (held, answers) = columns["emotion"]
    both, known = np.concatenate([values, held]), np.concatenate([labels, answers])
    kernel, _ = _scikit_learn(_standardised(both), known, lines[0]["train/l2/emotion"], 7)
    head = restore_run(tmp_path).state.trainable["heads"]["emotion"]["dense_out"]
    np.testing.assert_allclose(head["kernel"], kernel, atol=2e-4)
    assert not any("val/loss" in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.long
def test_the_solution_depends_on_neither_batch_nor_order_and_counts_every_view(trained, data_root):
    config = _config(data_root, trained[0], optimizer__l2=[3.0], train__cache_views=2)
    _, data = run_of(config)
    layers = []
    for batch in (8, 16):
        other = changed(config, train__batch_size=batch)
        session = LogisticSession(run_of(other)[0])
        session.cache(data, trained[0] / "features")
        (metrics,) = session.push({})
        layers.append(session.state.trainable["heads"]["emotion"]["dense_out"]["kernel"])
    np.testing.assert_array_equal(*layers)
    known = sum((item.labels["emotion"] != MISSING).sum() for item in data.train if "emotion" in item.labels)
    assert metrics["count/emotion"] == 2 * known


@pytest.mark.long
def test_without_batch_norm_the_features_are_read_as_they_are(trained, columns, data_root):
    config = _config(data_root, trained[0], optimizer__l2=[3.0], model__head__batch_norm=False)
    session, _ = _session(config)
    session.push({})
    (values, labels), _ = columns["emotion"]
    kernel, _ = _scikit_learn(values, labels, 3.0, 7)
    head = session.state.trainable["heads"]["emotion"]
    np.testing.assert_allclose(head["dense_out"]["kernel"], kernel, atol=2e-4)
    assert "norm" not in head


@pytest.mark.long
def test_a_strength_at_the_end_of_the_list_is_reported(trained, data_root):
    session, said = _session(_config(data_root, trained[0], optimizer__l2=[1e5, 1e6, 1e7]))
    session.push({})
    assert "at the end of optimizer.l2" in said.getvalue()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": {"name": "ft", "blocks": 1}}, "method.name"),
        ({"train__cache_features": False}, "train.cache_features"),
        ({"train__steps": 2}, "train.steps"),
        ({"model__head__kind": "deep"}, "model.head.kind"),
        ({"model__head__dropout": 0.1}, "model.head.dropout"),
        ({"model__head__age": "years"}, "model.head.age"),
        ({"data__labels": {"partial": ("age",)}}, "data.labels.partial"),
        ({"data__labels": {"smoothing": 0.1}}, "data.labels.smoothing"),
        ({"balancing": {"kind": "uncertainty"}}, "trains log_var"),
        ({"balancing": {"kind": "fixed", "weights": {"age": 2.0}}}, "balancing.weights"),
        ({"data__sampler": {"name": "balanced"}}, "data.sampler.name"),
        ({"optimizer__rates": {"heads": 1e-3}}, "optimizer.rates"),
        ({"optimizer__weight_decay": 0.1}, "optimizer.weight_decay"),
        ({"optimizer__clip_norm": 0.5}, "optimizer.clip_norm"),
        ({"optimizer__b1": 0.5}, "optimizer.b1"),
        ({"optimizer__l2": [0.0]}, "optimizer.l2"),
        ({"optimizer__l2": [1.0, 1.0]}, "optimizer.l2"),
        ({"optimizer__iterations": 0}, "optimizer.iterations"),
    ],
)
def test_what_it_cannot_solve_is_refused_before_anything_is_read(data_root, tmp_path, changes, named):
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        build.build(_config(data_root, tmp_path, **changes))


@pytest.mark.parametrize(
    "change", [{"optimizer__l2": [1.0]}, {"optimizer__iterations": 3}, {"optimizer__refit": True}]
)
def test_its_fields_are_refused_with_other_optimizers(data_root, change):
    with pytest.raises(UserError, match="a field that nothing reads"):
        build.build(changed(config_on(data_root), **change))


@pytest.mark.long
def test_no_validation_rows_are_enough_for_one_strength_only(trained, data_root):
    config = _config(data_root, trained[0], data__val_fraction=0.0)
    with pytest.raises(UserError, match=r"no validation rows of age"):
        _session(config)
    session, _ = _session(changed(config, optimizer__l2=[10.0]))
    (metrics,) = session.push({})
    assert metrics["l2/age"] == np.float32(10.0)


def test_it_has_no_step_to_plan_or_sweep(data_root, tmp_path):
    from softbio_jax.planning import fit

    run, data = run_of(_config(data_root, tmp_path))
    with pytest.raises(UserError, match="a run without a train step"):
        fit.fit(run.config, jax.devices(), None)
    with pytest.raises(UserError, match="a run without a train step"):
        sweep.sweep(run, data, tmp_path / "sweep", rates=[1e-3], decays=[0.0])
    assert not (tmp_path / "sweep").exists()


def test_the_console_is_checked_before_every_strength(trained, data_root):
    session, _ = _session(_config(data_root, trained[0]))
    session._console = console = Recording()
    session.push({})
    assert console.checks == 3 * len(STRENGTHS)


def test_features_that_are_not_finite_are_named(trained, data_root):
    session, _ = _session(_config(data_root, trained[0]))
    session._parts[0][0][1].values[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="features that are not finite"):
        session.push({})


def test_the_argument_of_finetune_sets_all_of_it(data_root):
    config = finetune.get_config("method=lp,optimizer=lbfgs,train=a/train,variant=tiny-test").to_dict()
    assert build.build(config).config.optimizer.name == "lbfgs"
    with pytest.raises(ValueError, match="steps is not read"):
        finetune.get_config("method=lp,optimizer=lbfgs,steps=9")
    with pytest.raises(ValueError, match="rate is not read"):
        finetune.get_config("rate=1e-3,method=lp,optimizer=lbfgs")


def test_a_cost_without_rows_of_a_task_is_zero():
    values = np.ones((3, 2), np.float32)
    rows = Basis.of(values, normed=True).place(values, np.full(3, MISSING), parallel.make_mesh())
    layer = {"kernel": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    assert float(cost(layer, rows)) == 0.0


def test_a_dry_run_describes_it_without_a_step():
    config = "configs/finetune.py:method=lp,optimizer=lbfgs,variant=tiny-test,tasks=gender"
    command = [sys.executable, "scripts/train.py", "--dry_run", "--workdir=unused", f"--config={config}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no train step" in done.stdout and "heads" in done.stdout
