"""docs/extending.md: a package of one's own adds a task, a data set, methods and a balancer."""

import json
import os
import pathlib
import re
import subprocess
import sys

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
FILES = dict(FILE.findall(PAGE.read_text()))


def definition(path, name, monkeypatch):
    """What a file of the page defines, which it registers for this test only."""
    from softbio_jax.adapters.methods import METHODS
    from softbio_jax.losses.balancing import BALANCERS

    for registry in (METHODS, BALANCERS):
        monkeypatch.setattr(registry, "_values", dict(registry._values))
    found = {"__name__": "of_the_page"}
    exec(compile(FILES[path], path, "exec"), found)
    return found[name]


def test_the_page_writes_nothing_into_the_package():
    assert sorted(FILES) == [
        f"my_faces/{name}.py"
        for name in ("__init__", "bitfit", "drawings", "glasses", "ia3", "weight_average")
    ]


def test_the_method_trains_only_biases_and_heads(monkeypatch):
    method = definition("my_faces/bitfit.py", "bitfit", monkeypatch)()
    groups = method.label(list(towers.flatten(towers.abstract(method, "tiny-test"))))
    trained = {path for path, group in groups.items() if group != "frozen"}
    assert {path for path in trained if path.startswith("encoder/")} == {
        path for path in groups if path.startswith("encoder/") and path.endswith("/bias")
    }
    assert {path for path in groups if path.startswith("heads/")} <= trained
    assert not {path for path in trained if path.endswith("kernel") and "heads/" not in path}


def test_the_other_formula_changes_no_bit_at_first_and_merges(monkeypatch):
    method = definition("my_faces/ia3.py", "ia3", monkeypatch)()
    model = towers.model(method)
    variables, twin = towers.variables(model), towers.plain_twin(model)
    groups = method.label(list(towers.flatten(variables["params"])))
    own = {path for path, group in groups.items() if group == "adapter_a"}
    # Per block: one number per query, key and value channel, one per hidden unit of the MLP.
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
def balancer(monkeypatch):
    found = definition("my_faces/weight_average.py", "DynamicWeightAverage", monkeypatch)()
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
def tree(tmp_path_factory):
    """A folder without a checkout: the page's files, and the commands as they are."""
    tree = tmp_path_factory.mktemp("extending")
    for name in ("scripts", "configs", "assets"):
        (tree / name).symlink_to(ROOT / name)
    for path, text in FILES.items():
        (tree / path).parent.mkdir(exist_ok=True)
        (tree / path).write_text(text)
    return tree


def start(tree, command, text="", **variables):
    environment = os.environ | {
        "PYTHONPATH": f"{tree}{os.pathsep}{ROOT}",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        command,
        cwd=tree,
        env=environment | variables,
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
        input=text,
    )


def run(tree, command, text="", **variables):
    done = start(tree, command, text, **variables)
    assert done.returncode == 0, f"{text}\n{(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


DRY_RUN = (
    "python scripts/train.py --dry_run --workdir=runs/dry"
    " --config=configs/finetune.py:method=bitfit,tasks=gender+glasses,batch_size=8"
    " --config.model.variant=tiny-test --config.balancing.kind=weight_average"
)


class TestPlugin:
    """The package is named on the command line."""

    @pytest.mark.long
    def test_a_run_trains_with_its_method_task_and_balancer(self, tree):
        said = run(tree, ["bash", "-e"], f"{DRY_RUN} --plugin=my_faces")
        assert re.search(r"^blocks +1\.0e-04 +\d+ +[\d,]+$", said, re.MULTILINE)
        assert "glasses" in said

    def test_without_it_the_command_ends_in_one_line_that_names_the_fix(self, tree):
        done = start(tree, ["bash", "-e"], DRY_RUN)
        assert done.returncode == 1
        assert re.fullmatch(r"error: unknown \w+: .*fix: .*--plugin=MODULE.*\n", done.stderr)

    def test_a_data_set_and_its_task_are_prepared(self, tree):
        (block,) = (b for b in blocks(PAGE) if b.language == "python" and "ImageDraw" in b.text)
        run(tree, [sys.executable, "-"], block.text)
        prepare = "python scripts/prepare_data.py --plugin=my_faces --dry_run"
        assert "96 rows" in run(tree, ["bash", "-e"], f"{prepare} --dataset=drawings --source=drawings")

    def test_a_folder_per_class_of_its_task_is_read(self, tree, tmp_path):
        for split in ("train", "test"):
            for word in ("with", "without"):
                folder = tmp_path / split / word
                folder.mkdir(parents=True)
                (folder / "0.png").write_bytes(b"not decoded in a dry run")
        prepare = f"python scripts/prepare_data.py --dry_run --dataset=folder --source={tmp_path}"
        said = run(tree, ["bash", "-e"], f"{prepare} --plugin=my_faces --task=glasses")
        assert "train: 2 rows" in said


@pytest.mark.long
def test_an_installed_package_needs_no_flag(tree, tmp_path):
    (entry_points,) = re.findall(r"^   ```toml\n(.*?)^   ```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    text = re.sub(r'^ *\[project\.entry-points\."(.*)"\]', r"[\1]", entry_points, flags=re.MULTILINE)
    text = re.sub(r'^ *(\w+) = "(.*)"', r"\1 = \2", text, flags=re.MULTILINE)
    info = tmp_path / "my_faces-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-faces\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(text)
    path = os.pathsep.join(map(str, (tmp_path, tree, ROOT)))
    assert "glasses" in run(tree, ["bash", "-e"], DRY_RUN, PYTHONPATH=path)


@pytest.fixture(scope="module")
def followed(tree):
    """The folder after everything of the page was done, and what its commands printed."""
    said = []
    for block in blocks(PAGE):
        if block.language == "python" and block.text not in FILES.values():
            said.append(run(tree, [sys.executable, "-"], block.text))
        elif block.text.startswith("python "):
            said.append(run(tree, ["bash", "-e"], block.text))
    return tree, "\n".join(said)


MOVED = """
import json
import my_faces
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
        moved, same = json.loads(run(followed[0], [sys.executable, "-"], MOVED).splitlines()[-1])
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
        moved, same = json.loads(run(followed[0], [sys.executable, "-"], code).splitlines()[-1])
        assert same, "the frozen tree's digest"
        in_tower = [path for path in moved if not path.startswith(("heads/", "balance/"))]
        assert in_tower and all(path.endswith("/ia3") and moved[path] for path in in_tower)
