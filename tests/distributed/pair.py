"""Two processes of scripts/train.py on this machine."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_config(path, config):
    """Writes a nested dict as a config file."""
    path.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
    )
    return path


def start(config_file, workdir, cache, *, command=("scripts/train.py",), **environment):
    """Starts both processes; a free port is the coordinator's."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        **environment,
    }
    return [
        subprocess.Popen(
            [
                sys.executable,
                *command,
                "--multihost",
                f"--config={config_file}",
                f"--workdir={workdir}",
                f"--coordinator=127.0.0.1:{port}",
                "--processes=2",
                f"--process_id={process}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]


def wait_for(process, text):
    """Reads a process' output until a line holds text."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail(f"no {text!r} in: {''.join(lines)} {process.stderr.read()[-2000:]}")
