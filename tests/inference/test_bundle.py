import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from softbio_jax.adapters.config import NO_ADAPTERS
from softbio_jax.data.decode import decode
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import run_bundle
from softbio_jax.inference.predictor import open_bundle
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.multitask import HeadConfig
from softbio_jax.params import flatten
from tests.adapters import towers
from tests.checkpoints import damaging
from tests.compiling import quick_jit


def pixels(bundle, count=3, seed=0):
    size = bundle.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def bundle_of(name):
    """A bundle of a random model, its adapters not at their initial values, and the model it comes from."""
    method = towers.METHODS[name]
    model = towers.model(method)
    variables = towers.variables(model)
    params = towers.stirred(variables["params"])
    folded, merged = run_bundle.folded(params, model)
    bundle = bundle_lib.Bundle(
        name=name,
        method=method.name,
        image_size=model.config.image_size,
        model=merged,
        temperatures={"age": 1.5},
        variables={"params": folded, "batch_stats": variables["batch_stats"]},
    )
    own = {"params": params, "batch_stats": variables["batch_stats"]}
    return bundle, dataclasses.replace(bundle, model=model, variables=own)


def with_age_head(bundle, age):
    """The bundle with new linear heads, that of age of this kind."""
    head = HeadConfig(kind="linear", batch_norm=False, dropout=0.0, age=age)
    model = bundle.model.clone(head=head)
    params = bundle.variables["params"] | {"heads": towers.variables(model)["params"]["heads"]}
    return dataclasses.replace(bundle, model=model, variables={"params": params, "batch_stats": {}})


@pytest.mark.parametrize("name", list(towers.METHODS))
def test_folding_keeps_every_methods_logits(name):
    bundle, adapted = bundle_of(name)
    images = pixels(bundle)
    found = quick_jit(bundle.forward)(bundle.variables, images)
    wanted = quick_jit(adapted.forward)(adapted.variables, images)
    for task in wanted:
        np.testing.assert_allclose(found[task], wanted[task], atol=1e-5)
    paths = list(flatten(bundle.variables["params"]))
    left = {p for p in paths if "lora" in p or "dora" in p}
    if name.startswith("mtlora"):
        assert not any(p.startswith("encoder/trunk") for p in left)
        assert all("/tasks/" in p or name == "mtlora_paper" for p in left)
    else:
        assert bundle.model.adapters == NO_ADAPTERS and left == set()
        assert not any(p.startswith("encoder/tail") for p in paths)


def test_a_runs_bundle_gives_the_probabilities_of_its_evaluation(workdir, bundle, data_root):
    assert set(bundle.temperatures) == {"age", "gender", "emotion"}
    for name in ("synthetic_utkface", "synthetic_raf_db"):
        table = predictions_csv.load(workdir / "eval" / "predictions" / f"{name}.csv")
        dataset = open_prepared(data_root / name, "test")
        images = np.stack([decode(dataset[i], size=32) for i in range(len(dataset))])
        logits = bundle.forward(bundle.variables, images)
        for task, expected in table.probabilities.items():
            np.testing.assert_allclose(jax.nn.softmax(logits[task]), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "mtlora", "mtlora_paper", "ft2"])
def test_what_is_saved_comes_back(name, tmp_path):
    bundle, _ = bundle_of(name)
    bundle_lib.save(bundle, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    back = open_bundle(tmp_path / "model")
    for field in dataclasses.fields(bundle):
        if field.name != "variables":
            assert getattr(back, field.name) == getattr(bundle, field.name), field.name
    jax.tree.map(np.testing.assert_array_equal, back.variables, bundle.variables)


@pytest.mark.parametrize("attention", ["cudnn", "pallas"])
def test_what_an_accelerator_computed_is_used_here(attention, workdir, bundle, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    values = json.loads((workdir / "config.json").read_text())
    changed_config(tmp_path / "run", compute=values["compute"] | {"attention": attention})
    there = dataclasses.replace(bundle.model.compute, attention=attention)
    elsewhere = dataclasses.replace(bundle, model=bundle.model.clone(compute=there))
    bundle_lib.save(elsewhere, tmp_path / "model")
    images = pixels(bundle, 2)
    wanted = bundle.forward(bundle.variables, images)
    for found in (open_bundle(tmp_path / "run"), open_bundle(tmp_path / "model")):
        assert found.model.compute.attention == "auto"
        for task, logits in found.forward(found.variables, images).items():
            np.testing.assert_allclose(logits, wanted[task], atol=1e-6)


def changed_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: changed_config(f, schema=3), "schema 3"),
        (lambda f: changed_config(f, preprocessing={}), "another preprocessing"),
        (lambda f: changed_config(f, tail="x"), r"config\.json tail: expected an integer"),
        (lambda f: changed_config(f, tail=99), r"config\.json tail: expected an integer from 0 to"),
        (lambda f: changed_config(f, head={"kind": "linear"}), "the arrays do not fit"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "unreadable safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "no such checkpoint file"),
        (lambda f: (f / "config.json").unlink(), "not a run directory"),
    ],
)
def test_a_damaged_folder_is_reported_in_one_line(damage, says, tmp_path):
    bundle, _ = bundle_of("lora")
    folder = bundle_lib.save(bundle, tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=says) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_of_two_bundles_are_refused(name, tmp_path):
    bundle, _ = bundle_of("lora")
    folder = bundle_lib.save(bundle, tmp_path / "model")
    other = bundle_lib.save(dataclasses.replace(bundle, temperatures={"age": 2.5}), tmp_path / "other")
    shutil.copy(other / name, folder / name)
    with pytest.raises(UserError, match=r"files of two: .*config\.json"):
        open_bundle(folder)


def test_a_damaged_bundle_is_one_line_and_never_another_number(tmp_path):
    bundle, _ = bundle_of("lora")
    folder = bundle_lib.save(bundle, tmp_path / "model")
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()  # not read
    refused = 0
    for seed in range(len(damaging.KINDS)):
        with damaging.damaged(folder, seed) as done:
            try:
                back = open_bundle(folder)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and str(folder) in str(error), done
            else:
                jax.tree.map(np.testing.assert_array_equal, back.variables, bundle.variables)
                assert back.temperatures == bundle.temperatures, done
    assert refused >= len(damaging.KINDS) - 1


def test_a_bundle_of_an_older_version_is_read(tmp_path):
    bundle, _ = bundle_of("lora")
    folder = bundle_lib.save(bundle, tmp_path / "model")
    arrays, notes = load_arrays(folder / "model.safetensors")
    kept = {name: notes[name] for name in ("format", "variant")}
    save_arrays(folder / "model.safetensors", arrays, metadata=kept)
    changed_config(folder, temperatures={"age": 2.0})
    assert open_bundle(folder).temperatures == {"age": 2.0}


def test_an_existing_folder_is_not_overwritten(tmp_path):
    bundle, _ = bundle_of("lp")
    with pytest.raises(UserError, match="the destination exists"):
        bundle_lib.save(bundle, tmp_path)


def test_no_model_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        open_bundle(tmp_path / "nothing")
