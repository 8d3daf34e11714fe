import json
import os
import pathlib
import subprocess
import sys

import pytest

from softbio_jax.train.metrics_log import MetricWriter, tensorboard_command


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scalars_become_json_lines_and_events(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0, active=True)
    writer.write(1, {"train/loss": 0.5, "train/odd": float("nan")})
    writer.write_performance(1, {"performance/images_per_second": 10.0})
    writer.close()
    assert _lines(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 0.5, "train/odd": None}]
    assert _lines(tmp_path / "performance.jsonl")[0]["performance/images_per_second"] == 10
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_lines_the_resumed_run_writes_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = [{"step": 2, "val/loss": 1.0}, {"step": 4, "train/loss": 1.0}]
    later = [{"step": 4, "val/loss": 2.0}, {"step": 5, "train/loss": 3.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept + later) + '{"step": 6, "tr')
    MetricWriter(tmp_path, resume_step=4, active=True).close()
    assert _lines(path) == kept


def test_an_inactive_writer_leaves_no_trace(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0, active=False)
    writer.write(1, {"a": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("active", [True, False], ids=["active environment", "another shell"])
def test_the_command_shows_the_events_in_the_shell_of_the_user(tmp_path, monkeypatch, active):
    pytest.importorskip("tensorboard", reason="the extra tensorboard")
    own = str(pathlib.Path(sys.executable).parent)
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own]
    monkeypatch.setenv("PATH", os.pathsep.join([own, *folders] if active else ["/usr/bin", "/bin"]))
    run = tmp_path / "a run"
    writer = MetricWriter(run, resume_step=0, active=True)
    writer.write(1, {"train/loss": 0.5})
    writer.close()
    command = tensorboard_command(run / "tensorboard")
    done = subprocess.run(["sh", "-c", f"{command} --inspect"], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert "train/loss" in done.stdout
    assert command.startswith("tensorboard ") == active


def test_the_command_installs_tensorboard_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.chdir(pathlib.Path(sys.executable).parent.parent)
    python = f"bin/{pathlib.Path(sys.executable).name} -m"
    expected = f"{python} pip install tensorboard && {python} tensorboard.main --logdir runs/tensorboard"
    assert tensorboard_command("runs/tensorboard") == expected
