"""docs/extending.md: each extension is one new file and one line, and the page can be followed."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters.merge import merge
from softbio_jax.losses.balancing import Balancer
from softbio_jax.losses.masked import MaskedMean
from tests.adapters import towers
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "extending.md"
FILE = re.compile(r'^```python title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)
SECTIONS = ("A task", "A data set", "A method", "An adapter with another formula", "A loss balancer")
COPIED = ("softbio_jax", "scripts", "configs", "assets")


def section(heading):
    text = PAGE.read_text()
    return re.search(rf"^##+ {heading}\n(.*?)^##", text, re.DOTALL | re.MULTILINE)[1]


def new_files(text):
    return dict(FILE.findall(text))


def diffs(text):
    return re.findall(r"^```diff\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def module(path):
    """A module of the page, made without its file."""
    made = types.ModuleType("of_the_page")
    exec(compile(new_files(PAGE.read_text())[path], path, "exec"), made.__dict__)
    return made


def patch(tree, diff):
    return subprocess.run(
        ["patch", "-p1", "--forward", "--fuzz=0"],
        cwd=tree,
        input=diff,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("heading", SECTIONS)
def test_an_extension_is_one_new_file_at_most_and_one_line(heading, tmp_path):
    text = section(heading)
    assert len(new_files(text)) == (0 if heading == "A task" else 1)
    for path in new_files(text):
        assert not (ROOT / path).exists(), "the file is new"
    (diff,) = diffs(text)
    changes = re.findall(r"^[+-](?!\+\+ |-- ).*$", diff, re.MULTILINE)
    assert len(changes) == 1 and changes[0].startswith("+")
    path = re.search(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)[1]
    (tmp_path / path).parent.mkdir(parents=True)
    shutil.copy(ROOT / path, tmp_path / path)
    page = diffs(PAGE.read_text())
    for earlier in page[: page.index(diff) + 1]:
        if f"+++ b/{path}\n" in earlier:
            done = patch(tmp_path, earlier)
            assert done.returncode == 0, f"renew the diff of {heading!r}: {done.stdout}"


def test_the_method_trains_biases_and_heads_alone():
    method = module("softbio_jax/adapters/methods/bitfit.py").bitfit()
    groups = method.label(list(towers.flatten(towers.abstract(method, "tiny-test"))))
    trained = {path for path, group in groups.items() if group != "frozen"}
    assert {path for path in trained if path.startswith("encoder/")} == {
        path for path in groups if path.startswith("encoder/") and path.endswith("/bias")
    }
    assert {path for path in groups if path.startswith("heads/")} <= trained
    assert not {path for path in trained if path.endswith("kernel") and "heads/" not in path}


def test_the_other_formula_changes_no_bit_at_first_and_merges():
    method = module("softbio_jax/adapters/methods/ia3.py").ia3()
    model = towers.model(method)
    variables, twin = towers.variables(model), towers.plain_twin(model)
    groups = method.label(list(towers.flatten(variables["params"])))
    own = {path for path, group in groups.items() if group == "adapter_a"}
    # Of each block: one number a query, key and value channel, one a hidden unit of the MLP.
    width, hidden = model.config.width, model.config.mlp_width
    sizes = {path: towers.flatten(variables["params"])[path].size for path in own}
    assert sum(sizes.values()) == model.config.layers * (3 * width + hidden)

    def logits(model, params):
        return model.apply(variables | {"params": params}, towers.images(model.config))["age"]

    fresh = towers.unflatten(
        {path: leaf for path, leaf in towers.flatten(variables["params"]).items() if path not in own}
    )
    np.testing.assert_array_equal(logits(model, variables["params"]), logits(twin, fresh))
    rng = np.random.default_rng(0)
    drawn = towers.unflatten(
        {
            path: (leaf + 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32) if path in own else leaf
            for path, leaf in towers.flatten(variables["params"]).items()
        }
    )
    applied = logits(model, drawn)
    np.testing.assert_allclose(logits(twin, merge(drawn, method.rules)), applied, atol=2e-5)
    assert np.abs(applied - logits(twin, fresh)).max() > 1e-3


@pytest.fixture
def balancer():
    found = module("softbio_jax/losses/balancers/weight_average.py").DynamicWeightAverage()
    assert isinstance(found, Balancer)
    return found


class TestBalancer:
    """Against the paper's formula, by hand."""

    def weights(self, balancer, histories):
        running = {task: balancer.init_running() for task in histories}
        for task, values in histories.items():
            for value in values:
                running[task] = balancer.update(running[task], jnp.float32(value))
        losses = {task: MaskedMean(jnp.float32(1), jnp.float32(1)) for task in histories}
        weights, regularisers = balancer.weigh(losses, {}, running)
        assert regularisers == {}
        return weights

    def test_even_at_first(self, balancer):
        found = self.weights(balancer, {"age": [3.0], "gender": [0.2]})
        assert [float(w) for w in found.values()] == [1.0, 1.0]

    def test_more_where_the_loss_falls_more_slowly(self, balancer):
        found = self.weights(balancer, {"age": [2.0, 1.0], "gender": [1.0, 1.0]})
        fast, slow = 0.7 * 2 + 0.3 * 1, 0.95 * 2 + 0.05 * 1
        shares = np.exp(np.array([fast / slow, 1.0]) / 2)
        np.testing.assert_allclose([float(w) for w in found.values()], 2 * shares / shares.sum(), rtol=1e-6)
        assert found["gender"] > 1 > found["age"]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy in which everything of the page was done, and what its commands said."""
    tree = tmp_path_factory.mktemp("extending")
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(command, text=""):
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            text=True,
            capture_output=True,
            timeout=900,
            check=False,
            input=text,
        )
        assert done.returncode == 0, f"{text}\n{(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    files, said = new_files(PAGE.read_text()), []
    by_text = {text: path for path, text in files.items()}
    for block in blocks(PAGE):
        if block.language == "diff":
            assert patch(tree, block.text).returncode == 0, block.text
        elif path := by_text.get(block.text):
            (tree / path).write_text(block.text)
        elif block.language == "python":
            said.append(run([sys.executable, "-"], block.text))
        else:
            said.append(run(["bash", "-e"], block.text))
    return tree, "\n".join(said), run


MOVED = """
import json
import numpy as np
from softbio_jax.params import flatten
from softbio_jax.runs import restore
from softbio_jax.runs.session import Session

trained = restore.restore_run("runs/extended")
fresh = Session(trained.run)
before, after = flatten(fresh.state.trainable), flatten(trained.state.trainable)
moved = {path: not np.array_equal(after[path], before[path]) for path in before}
print(json.dumps([moved, trained.base == fresh.base]))
"""


@pytest.mark.long
class TestFollowed:
    """What came of it, beyond the page's own assertions."""

    def test_the_dry_run_names_what_the_method_trains(self, followed):
        assert re.search(r"^blocks +1\.0e-04 +\d+ +[\d,]+$", followed[1], re.MULTILINE)

    def test_the_new_tasks_rows_are_in_the_metrics(self, followed):
        metrics = json.loads((followed[0] / "runs/extended/eval/metrics.json").read_text())
        sets = metrics["datasets"]
        assert sets["drawings"]["glasses"]["n"] == 32
        assert set(sets["drawings"]) == {"glasses"}, "no gender was made up"
        assert set(sets["synthetic_fairface"]) == {"gender"}
        assert metrics["model"]["method"] == "bitfit"
        assert sets["drawings"]["glasses"]["accuracy"] > 0.5, "better than chance in 40 steps"

    def test_the_new_balancers_weights_change_and_add_up(self, followed):
        lines = (followed[0] / "runs/extended/metrics.jsonl").read_text().splitlines()
        logged = [json.loads(line) for line in lines]
        weights = np.array(
            [
                [line["train/weight/gender"], line["train/weight/glasses"]]
                for line in logged
                if "train/weight/glasses" in line
            ]
        )
        assert len(weights) == 8
        np.testing.assert_allclose(weights.sum(1), 2, rtol=1e-5)
        assert np.ptp(weights[:, 0]) > 1e-3

    def test_biases_and_heads_moved_and_the_rest_is_as_it_was(self, followed):
        moved, same = json.loads(followed[2]([sys.executable, "-"], MOVED).splitlines()[-1])
        assert same, "the frozen tree's digest"
        in_tower = [path for path in moved if not path.startswith("heads/")]
        assert in_tower and all(path.endswith("/bias") for path in in_tower)
        assert sum(moved[path] for path in in_tower) > len(in_tower) / 2
        assert any(moved[path] for path in moved if path.startswith("heads/glasses/"))

    @pytest.mark.parametrize("table", ["glasses.csv", "rescaled.csv"])
    def test_predictions_name_the_new_classes(self, followed, table):
        header, *rows = (followed[0] / table).read_text().splitlines()
        assert "glasses" in header and len(rows) == 32
        assert all(",with," in row or ",without," in row for row in rows)

    def test_the_other_formula_was_trained(self, followed):
        code = MOVED.replace("runs/extended", "runs/rescaled")
        moved, same = json.loads(followed[2]([sys.executable, "-"], code).splitlines()[-1])
        assert same, "the frozen tree's digest"
        in_tower = [path for path in moved if not path.startswith(("heads/", "balance/"))]
        assert in_tower and all(path.endswith("/ia3") and moved[path] for path in in_tower)
