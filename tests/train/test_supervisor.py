"""What a supervised process leaves behind, in the words and exit code of its supervisor."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED

ROOT = pathlib.Path(__file__).resolve().parents[2]

SCRIPT = """
import os, sys
from softbio_jax.train import preemption, supervisor
sigterm, supervised = preemption.leave_at_sigterm(), supervisor.adopt()
if not supervised:
    sys.exit(supervisor.supervise(sigterm))
def native(text):  # as C++ writes
    os.write(2, text.encode())
{work}
"""


def _start(work):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(work=work)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(work):
    process = _start(work)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


# What jaxlib 0.10 writes, shortened.
PAGE = """E1129 01:05:24.039497 4314 coordination_service_agent.cc:289] Polled an error from the service.
F1129 01:05:24.039569 4314 client.h:80] Terminating process because the JAX distributed service detected \
fatal errors.
*** Check failure stack trace: ***
    @ 0x7f2b3cc40634 absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""


def test_an_abort_because_another_process_is_gone_is_one_line():
    code, errors = _run(f"native({PAGE!r}); os.abort()")
    assert code == EXIT_FELL_BACK
    assert errors.count("\n") == 1 and errors.startswith("error: another process") and "fix: " in errors


def test_any_other_abort_stays_one_with_all_its_words():
    code, errors = _run("native('free(): invalid pointer\\n'); os.abort()")
    assert code == -signal.SIGABRT
    assert errors == "free(): invalid pointer\n"


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_exit_codes_and_words_pass_through(status):
    code, errors = _run(f"native('W native\\n'); print('error: x', file=sys.stderr); sys.exit({status})")
    assert code == status
    assert sorted(errors.splitlines()) == ["W native", "error: x"]


@pytest.mark.parametrize("status", [EXIT_SAVED, EXIT_FELL_BACK])
def test_a_process_that_stopped_in_its_own_words_has_no_log_of_the_others(status):
    code, errors = _run(f"native({PAGE!r}); print('stopped', file=sys.stderr); os._exit({status})")
    assert (code, errors) == (status, "stopped\n")


def test_the_child_gets_sigterm():
    process = _start("print('up', flush=True); import time; time.sleep(100)")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_SAVED
    assert errors.count("\n") == 1


def test_the_child_does_not_outlive_its_supervisor():
    process = _start("print(os.getpid(), flush=True); import time; time.sleep(100)")
    child = int(process.stdout.readline())
    process.kill()
    process.wait(timeout=120)
    with contextlib.suppress(ProcessLookupError):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            os.kill(child, 0)
            if pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # nobody reaps it here
            time.sleep(0.01)
        pytest.fail("the child lives")
