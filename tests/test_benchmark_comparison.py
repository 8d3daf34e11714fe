"""The side-by-side benchmark: arithmetic, turns, table, and this side at the smallest size."""

import dataclasses
import json
import os
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


FORMS = ("eager", "compiled")


class FakeWorker:
    """Answers like a worker process, from a list of times, and writes down what it is asked."""

    def __init__(self, side, seconds, diary, trainable=7):
        self.side, self.diary, self.trainable = side, diary, trainable
        self._seconds = iter(seconds)

    def ask(self, do, **arguments):
        self.diary.append((self.side, do, arguments.get("name")))
        if do == "run":
            seconds = next(self._seconds)
            return {"seconds": seconds, "cpu_seconds": 2 * seconds, "waiting_cores": 0.0}
        if do == "memory":
            return {"peak_mib": next(self._seconds), "start_peak_mib": 0.0}
        return {"trainable": self.trainable, "compile_seconds": 3.0}

    def close(self):
        self.diary.append((self.side, "close", None))


def a_case(**changes):
    from benchmarks.comparison.case import Case
    from benchmarks.comparison.cases import against_twin
    from benchmarks.comparison.workload import Workload

    work = Workload(work="train", method="lora", variant="tiny-test", batch=4, image_size=32)
    case = Case(name="lora", title="LoRA step", entries=against_twin(work, forms=FORMS), target=0.9, images=4)
    return dataclasses.replace(case, **changes)


def test_medians_spread_and_ratios():
    from benchmarks.comparison import results

    samples = {
        "ours": [1.0, 2.0, 9.0, 2.0, 2.0],
        "eager": [4.0, 5.0, 4.0, 4.0, 4.0],
        "compiled": [2.0, 4.0, 2.5, 8.0, 4.0],
    }
    found = results.compare(samples, 0.5)
    assert found["best"] == "eager"  # of two that are level the first
    assert found["ratio"] == 2.0 / 4.0
    assert found["entries"]["ours"] == {"median": 2.0, "spread": 0.0, "samples": samples["ours"]}
    assert found["reached"] is True
    assert results.compare(samples, 0.49)["reached"] is False
    assert results.compare(samples, None)["reached"] is None


def test_the_best_opponent_counts():
    from benchmarks.comparison import results

    found = results.compare({"ours": [2.0], "eager": [4.0], "compiled": [2.5]}, 0.9)
    assert (found["best"], found["ratio"]) == ("compiled", 0.8)


def test_paired_ratio_sees_through_load_that_comes_and_goes():
    from benchmarks.comparison import results

    load = [1.0, 10.0, 1.0, 7.0, 1.0, 3.0, 1.0]
    ours, theirs = [0.8 * x for x in load], [1.0 * x for x in load]
    assert results.paired_ratio(ours, theirs) == pytest.approx(0.8)
    assert results.paired_ratio(ours, list(reversed(theirs))) == pytest.approx(0.8)


def test_a_figure_alone_is_held_against_its_target():
    from benchmarks.comparison import results

    found = results.compare({"ours": [20.0, 30.0, 24.0]}, 25.0)
    assert found["reached"] and "ratio" not in found


def test_entries_take_turns_and_the_first_turn_is_dropped():
    from benchmarks.comparison import runner

    diary, times = [], {"ours.step": [100.0, 1.0, 2.0, 3.0], "twins.step": [100.0, 100.0, *[4.0, 5.0] * 3]}
    result = runner.run(a_case(), lambda side: FakeWorker(side, times[side], diary), repeats=3)
    ran = [(side, name) for side, do, name in diary if do == "run"]
    assert ran == [("ours.step", "ours"), ("twins.step", "eager"), ("twins.step", "compiled")] * 4
    samples = {label: entry["samples"] for label, entry in result["entries"].items()}
    assert samples == {"ours": [1.0, 2.0, 3.0], "eager": [4.0] * 3, "compiled": [5.0] * 3}
    assert (result["best"], result["ratio"], result["reached"]) == ("eager", 0.5, True)
    assert [side for side, do, _ in diary if do == "close"] == ["ours.step", "twins.step"]


def test_sides_that_train_different_models_are_not_compared():
    from benchmarks.comparison import runner

    def start(side):
        return FakeWorker(side, [1.0] * 9, [], trainable=7 if side == "ours.step" else 8)

    with pytest.raises(RuntimeError, match="train different models"):
        runner.run(a_case(), start, repeats=1)


def test_memory_and_facts_are_measured_in_fresh_processes():
    from benchmarks.comparison import runner
    from benchmarks.comparison.case import Entry

    diary, peaks = [], {"ours.step": [500.0], "twins.step": [1000.0]}
    case = a_case(measure="memory", target=0.8)
    result = runner.run(case, lambda side: FakeWorker(side, peaks[side], diary))
    assert [do for _, do, _ in diary] == ["prepare", "memory", "close"] * 3
    assert result["ratio"] == 0.5

    diary.clear()
    entries = (Entry(label="ours", side="ours.start", work=case.entries[0].work),)
    case = a_case(measure="fact", fact="compile_seconds", entries=entries, target=2.0)
    result = runner.run(case, lambda side: FakeWorker(side, [], diary), repeats=2)
    assert [do for _, do, _ in diary] == ["prepare", "close"] * 3
    assert result["entries"]["ours"]["samples"] == [3.0, 3.0]
    assert result["reached"] is False


def test_units_divide_and_a_rate_too_low_is_not_reached():
    from benchmarks.comparison import runner

    case = a_case()
    first = dataclasses.replace(case.entries[0], units=2.0)
    case = dataclasses.replace(case, entries=(first, case.entries[1]), least_rate=100.0)
    result = runner.run(case, lambda side: FakeWorker(side, [1.0, 0.1], []), repeats=1)
    assert (result["entries"]["ours"]["median"], result["ratio"]) == (0.05, 0.5)
    assert result["cpu_ratio"] == pytest.approx(0.5)
    assert result["reached"] is False  # 4 images in 0.05 s are 80 per second


def test_table_says_what_is_not_reached_and_when_the_machine_was_loaded():
    from benchmarks.comparison import results, runner

    times = {"ours.step": [2.0] * 3, "twins.step": [2.0] * 6}
    result = runner.run(a_case(), lambda side: FakeWorker(side, times[side], []), repeats=2)
    result["facts"]["ours"]["other_cores"] = 1.3
    line = results.row(result)
    assert "| 2.00 ± 0.00 s, 2 images/s | 2.00 ± 0.00 s, 2 images/s (eager) | 1.00 | 1.00 |" in line
    assert "| <= 0.9 | **not reached** (others used 1.3 cores; ratio of processor time 1.00) |" in line
    head, rule, body = results.markdown([result]).splitlines()
    assert head.count("|") == rule.count("|") == body.count("|")


@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_suites(suite, tmp_path):
    from benchmarks.comparison import suites

    chosen = suites.choose(suite, [], scratch=str(tmp_path), small=True)
    names = [case.name for case in chosen]
    assert len(set(names)) == len(names)
    for case in chosen:
        labels = [entry.label for entry in case.entries]
        assert len(set(labels)) == len(labels)
        json.dumps([entry.work.to_json() for entry in case.entries])
    workloads = [entry.work for case in chosen for entry in case.entries]
    assert all(w.variant == "tiny-demo" for w in workloads if hasattr(w, "variant"))


def test_unknown_case_is_a_mistake(tmp_path):
    from benchmarks.comparison import suites
    from softbio_jax.errors import UserError

    with pytest.raises(UserError, match="no such case"):
        suites.choose("cpu", ["lora"], scratch=str(tmp_path))


@pytest.mark.parametrize(
    ("suite", "work", "method"),
    [
        pytest.param("cpu", "train", "lora", marks=pytest.mark.long),
        pytest.param("gpu", "train", "lora", marks=pytest.mark.long),
        ("gpu", "forward", "merged"),
    ],
)
def test_own_side_runs_at_the_smallest_size(suite, work, method):
    """The type and the number of steps in a repetition are those of the suites."""
    from benchmarks.comparison.workload import Workload
    from benchmarks.ours import step

    kind = {"dtype": "bfloat16", "steps": 2} if suite == "gpu" else {}
    workload = Workload(
        work=work, method=method, variant="tiny-test", batch=8, image_size=32, rank=4, layers=2, **kind
    )
    repetition, facts = step.prepare(workload.to_json(), "jit")
    repetition()
    assert facts["trainable"] > 0
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload


def test_without_a_gpu_the_gpu_suite_says_so():
    from benchmarks.comparison import runner
    from softbio_jax.errors import UserError

    class OnCpu(FakeWorker):
        def ask(self, do, **arguments):
            return {"platform": "cpu"}

    with pytest.raises(UserError, match=r"no such device.*found cpu"):
        runner.describe(lambda side: OnCpu(side, [], []), "gpu")


def test_a_side_that_cannot_be_imported_is_a_mistake_in_one_line(monkeypatch, tmp_path):
    from benchmarks.comparison import runner
    from softbio_jax.errors import UserError

    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = runner._environment
    monkeypatch.setattr(
        runner,
        "_environment",
        lambda platform: environment(platform) | {"PYTHONPATH": f"{tmp_path}:{SCRIPTS}:{ROOT}"},
    )
    start = runner.starter(torch_python=sys.executable, platform="cpu")
    missing = pytest.raises(UserError, match=r"a package is missing.*no torch here")
    with missing, runner.Workers(start) as workers:
        workers.of("twins.step").ask("describe")


def test_worker_answers_over_its_pipes(tmp_path):
    """A real process of this side: the start's values, its errors, its end."""
    from benchmarks.comparison import runner
    from benchmarks.comparison.workload import StartWork, Workload

    work = Workload(work="train", method="lora", variant="tiny-test", batch=1, image_size=32)
    start = StartWork(workload=work, cache=os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    with runner.Workers(lambda side: runner.Process(side)) as workers:
        worker = workers.of("ours.start")
        facts = worker.ask("prepare", name="start", work=start.to_json(), form="jit")
        assert 0 < facts["package_seconds"] < facts["import_seconds"]
        assert facts["compile_seconds"] < facts["prepare_seconds"]
        assert worker.ask("run", name="start")["seconds"] < 1
        assert worker.ask("memory", name="start", repetitions=1)["peak_mib"] > 10
        with pytest.raises(RuntimeError, match=r"ours\.start, asked to prepare.*no form 'eager'"):
            worker.ask("prepare", name="start", work=start.to_json(), form="eager")


def state_of(pid):
    """As /proc names it: T is stopped."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_side_is_stopped_while_nothing_is_asked_of_it():
    """So that none of its threads spins in the other's turn."""
    from benchmarks.comparison import runner

    with runner.Workers(lambda side: runner.Process(side)) as workers:
        worker = workers.of("ours.features")
        with pytest.raises(RuntimeError, match="no form 'eager'"):
            worker.ask("prepare", name="a", work={}, form="eager")
        assert waited_for(lambda: state_of(worker._process.pid) == "T")
        with pytest.raises(RuntimeError, match="no form 'eager'"):
            worker.ask("prepare", name="a", work={}, form="eager")


def waited_for(happens):
    for _ in range(200):
        if happens():
            return True
        time.sleep(0.01)
    return False


def results_of(names, run_one, **kw):
    from benchmarks.comparison import runner

    kept = []
    cases = [a_case(name=name) for name in names]
    failed = runner.run_all(
        cases, run_one, lambda results, left: kept.append((list(results), dict(left))), **kw
    )
    return kept, failed


def test_results_are_kept_after_every_case_and_an_error_ends_only_its_own():
    def run_one(case):
        if case.name == "b":
            raise RuntimeError("out of\n  memory")
        return {"name": case.name}

    kept, failed = results_of("abc", run_one, seconds=0)
    assert kept[0] == ([{"name": "a"}], {"b": "not reached", "c": "not reached"})
    assert kept[-1] == ([{"name": "a"}, {"name": "c"}], {"b": "out of memory"})
    assert failed == {"b": "out of memory"}


def test_no_case_starts_that_may_end_after_the_limit():
    kept, failed = results_of("abcd", lambda case: time.sleep(0.1) or {"name": case.name}, seconds=0.25)
    assert [[result["name"] for result in results] for results, _ in kept] == [["a"], ["a", "b"]]
    assert kept[-1][1] == {"c": "not reached", "d": "not reached"} and not failed


INTEL = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Processor
flags		: fpu avx2 avx512f amx_bf16 amx_tile
processor	: 1
model name	: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n"


def test_a_table_names_the_processor():
    from benchmarks.comparison import machine

    found = machine.processor(INTEL)
    assert (found["vendor"], found["family"], found["model"]) == ("GenuineIntel", "6", "143")
    assert machine.kind(found).startswith("Intel(R) Xeon(R) Processor (family 6, model 143; avx2, avx512f")
    assert machine.processor(ARM)["extensions"] == ["asimd", "sve"]


def test_the_settings_of_the_environment_are_recorded(monkeypatch):
    from benchmarks.comparison import machine

    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = machine.describe(
        {"ours.step": {"device": "cpu", "versions": {"jax": "1"}, "library": "XLA: --x"}}
    )
    line = machine.line(found)
    assert "OMP_WAIT_POLICY=passive" in line and "XLA: --x" in line and machine.kind(found) in line


def test_predicted_beside_measured():
    from benchmarks.comparison import results

    facts = {
        "attention": "cudnn",
        "predicted_bytes": 2**30,
        "predicted_seconds": 0.5,
        "device_bytes": 3 * 2**29,
    }
    result = {
        "title": "step",
        "entries": {"ours": {"median": 0.75}, "compiled": {"median": 1.0}},
        "facts": {"ours": facts, "compiled": {"device_bytes": 2**31}},
    }
    assert results.predictions([result]).splitlines()[-1] == (
        "| step | cudnn | 1.00 GiB | 1.50 GiB | 2.00 GiB | 500 ms | 750 ms |"
    )
    assert not results.predictions([result | {"facts": {"ours": {"device_bytes": 0}}}])
