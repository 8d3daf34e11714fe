import json
import time

import pytest

from softbio_jax.errors import UserError
from softbio_jax.train.progress import SkippedUpdates, stall_warning
from softbio_jax.train.validation import ValidationHistory
from tests.recording import Recording


def test_watch_follows_the_best_loss():
    watch = ValidationHistory()
    for step, loss in enumerate((3.0, 2.0, 2.5, 2.0), start=1):
        watch.update(step, loss)
    assert (watch.best, watch.best_step, watch.since_best) == (2.0, 2, 2)


@pytest.mark.parametrize("losses", [(), (1.0, 0.5, 0.7)])
def test_watch_survives_json(losses):
    watch = ValidationHistory()
    for step, loss in enumerate(losses):
        watch.update(step, loss)
    text = json.dumps(watch.to_json(), allow_nan=False)
    assert ValidationHistory.from_json(json.loads(text)) == watch


def test_skipped_steps_are_named_with_their_examples(tmp_path):
    console = Recording()
    skips = SkippedUpdates(
        tmp_path / "skipped.jsonl",
        maximum=3,
        console=console,
        examples=lambda step: [f"faces/train:{step}-{i}" for i in range(6)],
    )
    for step, in_a_row in ((1, 0), (2, 1), (3, 2), (4, 0), (5, 1)):
        skips.update(step, in_a_row)
    assert console.lines[1] == (
        "step 3: loss, gradient or update not finite, skipped (2 so far); its "
        "examples: faces/train:3-0, faces/train:3-1, faces/train:3-2, "
        "faces/train:3-3 and 2 more"
    )
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 5]
    assert lines[0]["examples"][5] == "faces/train:2-5"
    with pytest.raises(UserError, match="step 7: found 3 updates in a row skipped"):
        skips.update(7, 3)


def test_a_stall_is_told_while_it_lasts():
    console = Recording()
    with stall_warning(5, console, seconds=0.02):
        deadline = time.monotonic() + 20
        while not console.lines and time.monotonic() < deadline:
            time.sleep(0.01)
    assert console.lines[0].startswith("no batch for step 5")


def test_a_batch_in_time_is_not_told():
    console = Recording()
    with stall_warning(5, console, seconds=0.05):
        pass
    time.sleep(0.1)
    assert console.lines == []
