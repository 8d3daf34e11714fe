"""What a console shows of long work."""

import io
import re
import time

import pytest

from softbio_jax import console
from softbio_jax.console import Console


@pytest.mark.parametrize("fails", [False, True])
def test_the_time_of_a_block_is_shown_while_it_works_and_no_longer(monkeypatch, fails):
    monkeypatch.setattr(console, "_EVERY", 0.01)
    out = io.StringIO()

    def work(shown):
        with shown.waiting("compiling"):
            time.sleep(0.1)
            if fails:
                raise KeyError

    for shown in (Console(out=out), Console(out=io.StringIO(), active=False)):
        if fails:
            with pytest.raises(KeyError):
                work(shown)
        else:
            work(shown)
    printed = out.getvalue()
    assert re.fullmatch(r"(compiling: 0:00\n){2,}", printed)
    time.sleep(0.05)
    assert out.getvalue() == printed


def test_a_block_that_takes_no_time_shows_nothing():
    out = io.StringIO()
    with Console(out=out).waiting("compiling"):
        pass
    assert out.getvalue() == ""
