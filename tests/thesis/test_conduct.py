"""Conducting a study: finished trials are not repeated, however it ended."""

import concurrent.futures
import dataclasses
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.thesis.study import conduct, results, worker
from softbio_jax.thesis.study.study import Trial
from softbio_jax.train.preemption import EXIT_SAVED
from tests.runs.tiny import changed
from tests.thesis.small_study import ROOT, result, study_on, values_on


@pytest.fixture
def study(data_root):
    return study_on(data_root)


@pytest.fixture
def quick(monkeypatch):
    """Made-up trials, in threads; returns the list of those done."""
    done = []

    def train(study, trial, workdir, encoder):
        if len(done) == quick_end.get("after"):
            raise KeyboardInterrupt
        done.append(trial)
        assert encoder.endswith("tower.safetensors")
        config = study.config(trial, encoder=encoder, workdir=workdir)
        values = result(trial, loss=2.0 if trial.factor == 0.5 else 1.0)
        values |= {"config": results.config_digest(config), "share": trial.share}
        results.write(results.folder_of(workdir, trial) / "result.json", values)
        return values

    def pretrain(study, path):
        done.append("encoder")
        path.write_bytes(b"")
        return {"loss": 1.0, "steps": 3, "images": 20, "seconds": 1.0, "parts": {}}

    quick_end = {}
    monkeypatch.setattr(worker, "train", train)
    monkeypatch.setattr(worker, "pretrain", pretrain)
    monkeypatch.setattr(conduct, "_pool", concurrent.futures.ThreadPoolExecutor)
    return done, quick_end


def test_every_trial_is_done_once_and_the_encoder_first(study, quick, tmp_path):
    done, lines = quick[0], io.StringIO()
    found = conduct.conduct(study, tmp_path, jobs=2, console=Console(out=lines))
    assert done[0] == "encoder" and len(done) == 1 + study.size() == len(set(done))
    assert {run.factor for run in done[1:] if run.seed == 1} == {1.0}
    assert found["complete"] and len(found["runs"]) == 6
    assert sum(run["chosen"] for run in found["runs"]) == 4
    assert json.loads((tmp_path / f"{study.name}.json").read_text()) == json.loads(json.dumps(found))
    last = lines.getvalue().splitlines()[-1]
    assert last.startswith("[6/6]") and "about 0 min left" in last
    done.clear()
    again = conduct.conduct(study, tmp_path, jobs=1, console=Console(out=lines))
    assert done == [] and again["runs"] == found["runs"]


def test_runs_that_cache_the_same_features_are_not_at_once(study, quick, tmp_path, monkeypatch):
    at_once, running, train = set(), [], worker.train

    def slow(study, trial, workdir, encoder):
        running.append(trial)
        time.sleep(0.05)
        at_once.update((one, trial) for one in running if one != trial)
        running.remove(trial)
        return train(study, trial, workdir, encoder)

    monkeypatch.setattr(worker, "train", slow)
    study = dataclasses.replace(study, seeds=(0, 1, 2), cells={"lp": study.cells["lp"]})
    conduct.conduct(study, tmp_path / "lp", jobs=2)
    assert len(quick[0]) == 1 + study.size() and at_once
    assert all(one.seed != other.seed for one, other in at_once)


def test_records_stand_for_the_runs_of_another_machine(study, quick, tmp_path):
    done, records = quick[0], tmp_path / "records"
    found = conduct.conduct(study, tmp_path / "here", jobs=1, records=records)
    assert len(list(records.glob("*.json"))) == study.size()
    (records / "lp-x1-seed1.json").unlink()
    done.clear()
    moved = dataclasses.replace(study, data_root="elsewhere")
    again = conduct.conduct(moved, tmp_path / "there", jobs=1, records=records)
    assert done == ["encoder", Trial(cell="lp", factor=1.0, seed=1)]
    assert again["runs"] == found["runs"]


def test_a_record_of_another_configuration_is_reported(study, quick, tmp_path):
    conduct.conduct(study, tmp_path / "here", jobs=1, records=tmp_path / "records")
    cells = {name: changed(cell, train__batch_size=8) for name, cell in study.cells.items()}
    other = dataclasses.replace(study, cells=cells)
    with pytest.raises(UserError, match=r"record of another configuration: .*lora-x0.5-seed0.json"):
        conduct.conduct(other, tmp_path / "there", jobs=1, records=tmp_path / "records")


def test_a_shorter_search_is_followed_by_every_seed_in_full(study, quick, tmp_path):
    short = dataclasses.replace(study, search_share=0.5, more_seeds={"lora": (5,)})
    found = conduct.conduct(short, tmp_path, jobs=1)
    trials = [trial for trial in quick[0] if trial != "encoder"]
    assert found["complete"] and len(trials) == short.size() == found["size"] == 9
    assert {trial.share for trial in trials if trial.factor == 0.5} == {0.5}
    final = [(trial.cell, trial.seed) for trial in trials if trial.share == 1]
    assert sorted(final) == [("lora", 0), ("lora", 1), ("lora", 5), ("lp", 0), ("lp", 1)]
    steps = [short.config(trial, encoder="", workdir=tmp_path).train.steps for trial in trials]
    assert steps == [4 if trial.share == 1 else 2 for trial in trials]


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_study_that_is_started_again_resumes(study, quick, tmp_path, after):
    done, end = quick
    end["after"] = after
    with pytest.raises(KeyboardInterrupt):
        conduct.conduct(study, tmp_path, jobs=1)
    kept = json.loads((tmp_path / f"{study.name}.json").read_text())
    assert not kept["complete"] and len(kept["runs"]) == after - 1
    end.clear()
    complete = conduct.conduct(study, tmp_path, jobs=1)
    assert complete["complete"] and len(done) == len(set(done)) == 1 + study.size()


def test_a_damaged_result_is_done_again(study, quick, tmp_path):
    conduct.conduct(study, tmp_path, jobs=1)
    trial = Trial(cell="lp", factor=1.0, seed=1)
    (results.folder_of(tmp_path, trial) / "result.json").write_text('{"cell": "l')
    quick[0].clear()
    assert conduct.conduct(study, tmp_path, jobs=1)["complete"]
    assert quick[0] == [trial]


def test_another_study_in_the_same_folder_is_reported(study, quick, tmp_path):
    conduct.conduct(study, tmp_path, jobs=1)
    moved = dataclasses.replace(study, data_root="elsewhere")
    conduct.conduct(moved, tmp_path, jobs=1)
    other = dataclasses.replace(study, seeds=(0, 2), pretrain=dataclasses.replace(study.pretrain, steps=4))
    with pytest.raises(UserError, match=r"another study.*pretrain.steps was 3, is 4, seeds was "):
        conduct.conduct(other, tmp_path, jobs=1)


def test_another_choice_of_cells_continues_in_the_same_folder(study, quick, tmp_path):
    def chosen(*names, of=study):
        return dataclasses.replace(of, cells={name: of.cells[name] for name in names})

    done = quick[0]
    conduct.conduct(chosen("lora"), tmp_path, jobs=1)
    conduct.conduct(chosen("lp"), tmp_path, jobs=1)
    assert len(done) == len(set(done)) == 1 + 6  # the encoder, and each trial of both cells once
    found = conduct.conduct(study, tmp_path, jobs=1)
    assert found["complete"] and len(found["runs"]) == 6 and len(done) == 7
    for name in study.cells:  # also one that the last choice left out is compared
        conduct.conduct(chosen(next(other for other in study.cells if other != name)), tmp_path, jobs=1)
        other = dataclasses.replace(study, cells=study.cells | {name: changed(study.cells[name], seed=5)})
        with pytest.raises(UserError, match=rf"another study.*cells\.{name}\.seed was 3, is 5"):
            conduct.conduct(chosen(name, of=other), tmp_path, jobs=1)


def test_two_at_a_time_in_one_folder_are_reported(study, quick, tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="workdir is in use"):
            conduct.conduct(study, tmp_path, jobs=1)


@pytest.mark.parametrize("jobs", [0, 10_000])
def test_a_wrong_number_of_jobs_is_reported(study, tmp_path, jobs):
    with pytest.raises(UserError, match="--jobs"):
        conduct.conduct(study, tmp_path / "new", jobs=jobs)
    assert not (tmp_path / "new").exists()


def test_a_worker_that_is_killed_is_reported(study, quick, tmp_path, monkeypatch):
    def killed(*arguments):
        raise concurrent.futures.process.BrokenProcessPool

    monkeypatch.setattr(worker, "train", killed)
    with pytest.raises(UserError, match=r"a worker process was ended.*start the same command"):
        conduct.conduct(study, tmp_path, jobs=1)


def test_missing_data_are_reported(study, tmp_path):
    trial = Trial(cell="lora", factor=1.0, seed=0)
    missing = dataclasses.replace(study, data_root=str(tmp_path / "nothing"))
    with pytest.raises(UserError) as error:
        worker.train(missing, trial, tmp_path, "tower")
    assert "nothing" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_real_trial_leaves_its_result_and_a_second_pass_agrees(study, tmp_path):
    about = worker.pretrain(study, tmp_path / "tower.safetensors")
    assert about["parts"]["pretraining"]["n"] == 20
    trial = Trial(cell="lora", factor=1.0, seed=1)
    tower = str(tmp_path / "tower.safetensors")
    first = worker.train(study, trial, tmp_path, tower)
    folder = results.folder_of(tmp_path, trial)
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    assert first["averages"] == metrics["averages"] and set(first["datasets"]) == {
        "synthetic_utkface",
        "synthetic_raf_db",
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(losses) == 2 and first["validation_loss"] == min(losses)
    assert 0 < first["trainable_params"] < first["total_params"] and first["rate"] == 1e-2
    assert results.read_all(study, tmp_path) == {trial: json.loads(json.dumps(first))}
    (folder / "result.json").unlink()  # killed between the evaluation and the result
    second = worker.train(study, trial, tmp_path, tower)
    assert second["averages"] == first["averages"]
    assert second["validation_loss"] == first["validation_loss"]


def test_a_trial_that_diverges_is_a_result(study, tmp_path, monkeypatch):
    from softbio_jax.train import loop
    from softbio_jax.train.progress import DivergedError

    def diverges(*arguments, **named):
        raise DivergedError("loss or gradient is not finite", where="step 3")

    monkeypatch.setattr(loop, "train_and_evaluate", diverges)
    trial = Trial(cell="lora", factor=1.0, seed=0)
    tower = tmp_path / "tower.safetensors"
    found = worker.train(study, trial, tmp_path, str(tower))
    assert found["validation_loss"] is None and "not finite" in found["failed"]
    assert results.read_all(study, tmp_path) == {trial: found}


# From here on the command itself, with its processes.


@pytest.fixture
def command(data_root, tmp_path):
    """Starts the script on a small study, with some changes of every cell's training."""
    file = tmp_path / "study.py"

    def start(*arguments, **train):
        values = values_on(data_root)
        cells = {name: cell | {"train": cell["train"] | train} for name, cell in values.pop("cells").items()}
        file.write_text(
            "import ml_collections\n\n\ndef get_config():\n"
            f"    cells = ml_collections.ConfigDict({cells!r}, sort_keys=False)\n"
            f"    return ml_collections.ConfigDict({values!r} | {{'cells': cells}}, sort_keys=False)\n"
        )
        return subprocess.Popen(
            [
                sys.executable,
                "scripts/small_reproduction.py",
                f"--config={file}",
                f"--workdir={tmp_path / 'work'}",
                *arguments,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            start_new_session=True,
        )

    return start, tmp_path / "work"


@pytest.mark.long
def test_the_command_survives_kills(command, study):
    start, workdir = command
    printed = []
    for _ in range(3):  # killed while it pretrains, in the middle, near the end
        process = start("--jobs=2")
        begun = time.monotonic()
        for line in process.stdout:
            printed.append(line)
            if line.startswith("[") or time.monotonic() - begun > 300:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        time.sleep(2)  # its workers see that it is gone
    process = start("--jobs=2")
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    found = json.loads((workdir / f"{study.name}.json").read_text())
    assert found["complete"] and len(found["runs"]) == 6 and found["jobs"] == 2
    finished = [line.split()[1] for line in [*printed, *output.splitlines()] if line[0] == "["]
    assert len(finished) == len(set(finished)), "a finished run is not repeated"
    assert all(np.isfinite(run["validation_loss"]) for run in found["runs"])
    tables = subprocess.run(
        [sys.executable, "scripts/small_reproduction.py", f"--report={workdir / f'{study.name}.json'}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "| LoRA |" in tables.stdout


@pytest.mark.long
def test_sigterm_saves_the_runs_that_are_in_progress(command):
    start, workdir = command
    process = start("--jobs=1", steps=100_000, eval_every=100_000, checkpoint_every=0)
    log, begun = workdir / "runs" / "lora" / "x0.5-seed0" / "log.txt", time.monotonic()
    while not (log.exists() and "\nstep " in log.read_text()) and time.monotonic() - begun < 300:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_SAVED, errors
    assert errors.splitlines()[-1] == "stopped by SIGTERM: 0 of 6 runs are done; start again to resume"
    steps = [int(path.name) for path in (log.parent / "checkpoints").iterdir() if path.name.isdigit()]
    assert steps and 0 < max(steps) < 100_000  # of itself it would write one after the last step alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report=nothing.json"], "no collected results"),
        ([], "nothing to do"),
        (["--config=configs/small_reproduction.py:scale=thesis", "--workdir=x"], "config.pretrained"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(tmp_path, arguments, message):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "small_reproduction.py"),
            *(a.replace("configs/", f"{ROOT}/configs/") for a in arguments),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
