"""Each test runs a small script as a user would, and looks at its exit code and its stderr."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from softbio_jax import command

ROOT = pathlib.Path(__file__).resolve().parent.parent

CONFIG = """
import ml_collections

def get_config(method="lora"):
    if method != "lora":
        raise ValueError(f"unknown method {method}: expected lora")
    config = ml_collections.ConfigDict()
    config.model = ml_collections.ConfigDict({"variant": "tiny", "depth": 2})
    return config
"""


@pytest.fixture
def run_script(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)

    def start(body, *arguments, popen=False):
        script = tmp_path / "script.py"
        script.write_text(
            '"""Does a small thing.\n\nUsage: script.py [flags]\n"""\n'
            "import errno, os, sys, time\n"
            "from absl import app, flags\n"
            "from ml_collections import config_flags\n"
            "from softbio_jax import command\n"
            "from softbio_jax.errors import UserError\n"
            "CONFIG = config_flags.DEFINE_config_file('config')\n"
            "COUNT = flags.DEFINE_integer('count', 1, 'A number.')\n"
            "flags.DEFINE_float('share', 0.5, 'A number.', 0.0, 1.0)\n"
            "flags.DEFINE_list('folders', None, 'Several.')\n"
            "def main(argv):\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n"
            "if __name__ == '__main__':\n"
            "    command.run(main, arguments=True)\n"
        )
        options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        if not any(argument.startswith("--config=") for argument in arguments):
            arguments = (f"--config={tmp_path / 'config.py'}", *arguments)
        command = [sys.executable, str(script), *arguments]
        options["env"] = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        if popen:
            # Where the tests run in the background, Ctrl-C is ignored, and children inherit that.
            heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
            return subprocess.Popen(command, preexec_fn=heard, stdin=subprocess.PIPE, **options)
        return subprocess.run(command, timeout=300, **options)

    return start


def only_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_success_is_exit_code_0_and_a_silent_stderr(run_script):
    done = run_script("print('count', COUNT.value, argv[1:])", "--count=3", "faces")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "count 3 ['faces']\n"


def test_the_main_function_chooses_the_exit_code(run_script):
    assert run_script("return 7").returncode == 7


def test_a_users_mistake_is_one_line_and_exit_code_1(run_script):
    done = run_script("raise UserError('unknown class', where='a.csv row 3', fix='rename it')")
    assert done.returncode == 1
    assert only_line(done.stderr) == "error: unknown class: a.csv row 3; fix: rename it"


def test_debug_shows_the_traceback(run_script):
    done = run_script("raise UserError('unknown class')", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "unknown class" in done.stderr


@pytest.mark.parametrize("lines", [1, 100_000], ids=["flushed at the end", "while it prints"])
def test_a_reader_that_stops_ends_the_script_silently(run_script, lines):
    # The script waits until nobody reads any more, as behind `| head -0`.
    body = f"sys.stdin.read(); [print('a line') for _ in range({lines})]"
    process = run_script(body, popen=True)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_a_broken_pipe_to_another_process_is_a_bug(run_script):
    body = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"
    done = run_script(body)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_a_bug_keeps_its_traceback(run_script):
    done = run_script("raise ZeroDivisionError('1/0')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_missing_file_is_named(run_script):
    done = run_script("open('/no/such/faces.csv')")
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert line.startswith("error: No such file or directory: /no/such/faces.csv; fix:")


def test_a_file_in_the_place_of_a_folder_is_named(run_script):
    done = run_script("os.listdir(__file__)")
    assert done.returncode == 1
    assert "Not a directory" in only_line(done.stderr)


def test_a_full_disk_is_reported_even_without_a_file_name(run_script):
    done = run_script("raise OSError(errno.ENOSPC, 'No space left on device')")
    assert done.returncode == 1
    assert "free some disk space" in only_line(done.stderr)


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--cuont=3", "cuont"),
        ("--count=three", "three"),
        ("--config.model.varaint=B16", "varaint"),
        ("--config.model.depth=deep", "deep"),
        ("--config=/no/such/config.py", "/no/such/config.py"),
        ("--share=nan", "--share=nan"),  # beyond both bounds, for absl within
        ("--folders=a,,b", "--folders=a,,b: an empty entry"),  # which would be the current folder
        ("--folders=a, ", "an empty entry"),
        ("--folders=", "--folders: an empty list"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(run_script, argument, named):
    done = run_script("print('ran')", argument)
    assert done.returncode == 2, done.stderr
    assert named in only_line(done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize(("script", "named"), [("predict", "--model"), ("train", "--config, --workdir")])
def test_missing_flags_are_named(script, named):
    done = subprocess.run(
        [sys.executable, f"scripts/{script}.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert line == f"error: a flag is missing: {named}; see {script}.py --help"


def test_a_mistyped_config_key_gets_the_right_one_suggested(run_script):
    done = run_script("print('ran')", "--config.model.varaint=B16")
    assert "variant" in only_line(done.stderr)


def test_a_config_that_refuses_its_argument_is_reported_without_a_traceback(run_script, tmp_path):
    done = run_script("print('ran')", f"--config={tmp_path / 'config.py'}:loro")
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert "unknown method loro: expected lora" in line
    assert "Traceback" not in line


def test_wrong_arguments_are_reported_without_the_complete_help(run_script):
    done = run_script("raise app.UsageError('expected one folder')")
    assert done.returncode == 2
    assert only_line(done.stderr) == "error: expected one folder"


def test_libraries_narrate_only_when_asked(run_script):
    body = "from absl import logging; logging.info('narration'); logging.warning('trouble')"
    quiet, asked = run_script(body), run_script(body, "--verbosity=0")
    assert "narration" not in quiet.stderr
    assert "trouble" in quiet.stderr
    assert "narration" in asked.stderr


def test_help_lists_the_flags_and_succeeds(run_script):
    done = run_script("print('ran')", "--help")
    assert done.returncode == 0
    assert "Does a small thing." in done.stdout
    assert "--count" in done.stdout
    assert "debug" in done.stdout and "--plugin" in done.stdout


def test_ctrl_c_ends_with_130_and_no_traceback(run_script):
    process = run_script("print('ready', flush=True); time.sleep(60)", popen=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert only_line(stderr) == "interrupted"


def test_the_home_folder_in_flags(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    expanded = {
        "--out=~/data": "--out=/home/me/data",
        "-out=~": "-out=/home/me",
        "~/x.jpg": "/home/me/x.jpg",
        "--config=configs/a.py:x=1,pretrained=~/w": "--config=configs/a.py:x=1,pretrained=/home/me/w",
        "--values=a~/b": "--values=a~/b",
        "x=~/y": "x=~/y",
        "--out=~someone": "--out=~someone",
    }
    for argument, expected in expanded.items():
        assert command._at_home(argument) == expected


@pytest.mark.parametrize(
    ("installed", "vendor", "told", "quiet"),
    [
        (True, "0x8086", {}, True),
        (True, "0x1ae0", {}, False),
        (True, "0x8086", {"JAX_PLATFORMS": "tpu,cpu"}, False),
        (True, "0x8086", {"JAX_FORCE_TPU_INIT": "1"}, False),
        (False, "0x8086", {}, False),
    ],
    ids=["no TPU", "a TPU", "chosen", "forced", "no libtpu"],
)
def test_libtpu_does_not_look_for_tpus_that_are_not_there(
    tmp_path, monkeypatch, installed, vendor, told, quiet
):
    (tmp_path / "0000:00:05.0").mkdir()
    (tmp_path / "0000:00:05.0/vendor").write_text(f"{vendor}\n")
    monkeypatch.setattr(command, "_DEVICES", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    environment = {"TPU_WORKER_HOSTNAMES": "mine"} if not quiet else {}
    monkeypatch.setattr(os, "environ", told | environment)
    command._quiet_libtpu()
    expected = command._NO_TPU if quiet else environment
    assert {name: value for name, value in os.environ.items() if name.startswith("TPU_")} == expected
