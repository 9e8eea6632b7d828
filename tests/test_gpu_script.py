"""benchmarks/gpu/run.sh on a CPU: all parts with tiny sizes, and what it does where a part fails or time runs out."""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks" / "gpu"
PARTS = ("build", "check", "ops", "scoring", "train")
METHODS = ("none", "advrbd")


@pytest.fixture
def scripts(monkeypatch):
    """Imports a file of benchmarks/gpu by its name; none of them stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name in {path.stem for path in SCRIPTS.glob("*.py")}:
            del sys.modules[name]


def libraries() -> dict[str, float]:
    return {path.name: path.stat().st_mtime for path in (ROOT / "advrbd_plugin").glob("*.so")}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """(process, folder of the results, seconds of processor time); on a machine that lacks platformdirs."""
    from advrbd_plugin import ops

    if ops.backend(torch.empty(0)) == "reference":
        pytest.skip("the compiled kernels are not there: install a C++ compiler and run `pip install -e .` again")
    home = tmp_path_factory.mktemp("gpu")
    (home / "missing").mkdir()
    (home / "missing" / "platformdirs.py").write_text("raise ModuleNotFoundError('platformdirs')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ADVRBD_")}
    environment |= {"PYTHON": sys.executable, "OUT": str(home / "out"), "PYTHONPATH": str(home / "missing")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one of those that are installed may need platformdirs
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "run.sh"), "--dry-run", "--work", str(home / "work"), "--commit", "abc123"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    log = (home / "out" / "log.txt").read_text() if (home / "out" / "log.txt").exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log[-3000:]}"
    return done, home / "out", taken


@pytest.fixture(scope="module")
def found(dry_run):
    """Part -> its file."""
    return {part: json.loads((dry_run[1] / f"{part}.json").read_text()) for part in PARTS}


def steps_of(part: dict) -> dict[str, dict]:
    return {step["name"]: step for step in part["steps"]}


def test_every_part_is_reported_and_eight_files_come_back(dry_run):
    _, out, seconds = dry_run
    summary = json.loads((out / "summary.json").read_text())
    assert {name: part["status"] for name, part in summary["parts"].items()} == dict.fromkeys(PARTS, "done")
    assert summary["run"]["commit"] == "abc123" and summary["run"]["dry_run"] is True
    assert summary["machine"]["gpu"] is None and summary["machine"]["torch"] == torch.__version__
    expected = {*(f"{part}.json" for part in PARTS), "summary.json", "report.md", "log.txt"}
    assert {path.name for path in out.iterdir()} == expected
    assert seconds < 90, "a dry run of this length is no longer quick on one core"


def test_the_short_table_comes_last(dry_run):
    done, out, _ = dry_run
    report = (out / "report.md").read_text()
    assert done.stdout.endswith(report) and len(report.splitlines()) <= 60
    assert report.startswith("DRY RUN on a CPU with tiny sizes: nothing here is a figure.\n")
    assert "abc123" in report
    for part in PARTS:
        assert f"\n| {part} | done | " in report
    assert "| perturb N=16 K=4 f32 | " in report and "| resnet_narrow:badnets:advrbd | " in report


def test_what_needs_a_gpu_is_skipped_and_nothing_else(found):
    reasons = {step["reason"] for part in found.values() for step in part["steps"] if step["status"] == "skipped"}
    assert reasons == {"no GPU", "dry run: nothing is compiled, the ops that are there serve"}
    assert all(step["status"] != "failed" for part in found.values() for step in part["steps"])
    assert all(part["dry_run"] for part in found.values())
    skipped = [name for name, step in steps_of(found["check"]).items() if step["status"] == "skipped"]
    assert sorted(skipped) == [
        "CUDA graph: capture and three replays",
        "a result of more than 2**31 values",
        "another GPU than the current one",
        "another stream",
        "compute-sanitizer memcheck",
        "compute-sanitizer racecheck",
        "kernels compiled by NVRTC",
    ]


def test_the_parts_hold_what_a_gpu_would_be_asked_for(found):
    check = steps_of(found["check"])
    assert check["perturb: dtypes, layouts, offsets, masks"]["cases"] == 2 * 3 * 2 * 9
    assert check["tests/ops"]["tests"] > 1 and check["tests/ops"]["failures"] == 0
    for step in found["ops"]["steps"]:
        timed = (
            {"advrbd", "copy", "two ops"} if "score_step" in step["name"] else {"advrbd", "copy", "eager", "compile"}
        )
        assert set(step["microseconds"]) == timed and step["reasons"] == {}
        assert step["gigabytes_per_second"] >= 0 and step["bytes"] > 0 and step["larger_than_l2"] is False
    assert found["ops"]["device"] == "cpu" and found["ops"]["clock"] == "host"
    ratios = [step for step in found["scoring"]["steps"] if "ratio" in step]
    assert len(ratios) == 3 and all(step["ratio"] > 0 for step in ratios)
    for loop in ("scoring", "training"):
        idle = steps_of(found["scoring"])[f"resnet_narrow, idle share of {loop}, batch 4"]
        assert idle["status"] == "done" and idle["kernels_a_step"] > 10
        assert idle["ms_a_step"] is None or idle["ms_a_step"] > 0  # None: the machine was too busy to tell


def test_each_training_has_its_figures_and_seconds(found):
    train = found["train"]
    assert steps_of(train)["photographs"]["training_samples"] == 120
    assert train["settings"]["epochs"] == 1
    for attack in ("badnets", "none"):
        for method in METHODS:
            step = steps_of(train)[f"resnet_narrow:{attack}:{method}"]
            assert 0 <= step["figures"]["acc"] <= 1 and 0 <= step["figures"]["asr"] <= 1
            assert step["seconds"] == pytest.approx(sum(step["stage_seconds"].values()), abs=0.05)
            assert step["stage_seconds"]["training"] > 0 and step["training_images_per_second"] > 0
        assert ("fpr" in step["figures"]) and (step["figures"]["tpr"] is None) == (attack == "none")


def test_no_place_on_the_machine_is_published(dry_run, tmp_path_factory):
    _, out, _ = dry_run
    published = "".join(path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md"))
    assert str(out.parent) not in published and str(ROOT) not in published and str(Path.home()) not in published


# Parts that a test makes up: what becomes of the others where one fails.
WRITES = """
import json, sys
path = sys.argv[sys.argv.index("--out") + 1]
steps = [dict(name=name, status=status, reason=reason, seconds=0.1) for name, status, reason in {steps!r}]
json.dump(dict(dry_run=True, machine=dict(gpu=None), steps=steps), open(path, "w"))
"""
DRIVER = """
import sys
sys.path.insert(0, {scripts!r})
import run
from pathlib import Path
parts = [run.Part(name, Path(script), seconds) for name, script, seconds in {parts!r}]
sys.exit(run.main(sys.argv[1:], parts))
"""


def run_parts(tmp_path, *words, **parts: tuple[str, float | None]):
    """(process, summary) of parts that are given as name=(source, time limit)."""
    listed = []
    for name, (source, seconds) in parts.items():
        (tmp_path / f"{name}.py").write_text(source)
        listed.append((name, str(tmp_path / f"{name}.py"), seconds))
    code = DRIVER.format(scripts=str(SCRIPTS), parts=listed)
    command = [sys.executable, "-c", code, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    file = tmp_path / "out" / "summary.json"
    return done, json.loads(file.read_text())["parts"] if file.exists() else None


def test_a_part_that_fails_or_hangs_does_not_stop_the_rest(tmp_path):
    good = WRITES.format(steps=[("one", "done", "")])
    lasting = "import subprocess, sys, time\n" + good
    lasting += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\ntime.sleep(60)\n"
    began = time.monotonic()
    done, parts = run_parts(
        tmp_path,
        breaks=("import sys\nprint('cannot open /secret/place/file')\nsys.exit(3)\n", 60.0),
        dies=("import os, signal\nprint('working')\nos.kill(os.getpid(), signal.SIGKILL)\n", 60.0),
        hangs=(lasting, 3.0),
        partly=(WRITES.format(steps=[("one", "done", ""), ("two", "failed", "ValueError: 7")]), 60.0),
        absent=(WRITES.format(steps=[("one", "skipped", "no GPU")]), 60.0),
        good=(good, 60.0),
    )
    assert time.monotonic() - began < 60
    assert done.returncode == 1, done.stderr
    assert {name: (part["status"], part["reason"]) for name, part in parts.items()} == {
        "breaks": ("failed", "it ended with status 3: cannot open file"),
        "dies": ("failed", "it was killed by SIGKILL: working"),
        "hangs": ("failed", "it was ended after 3 s, its time limit"),
        "partly": ("failed", "1 of 2 steps failed: two: ValueError: 7"),
        "absent": ("skipped", "no GPU"),
        "good": ("done", ""),
    }
    for name, part in parts.items():
        assert f"| {name} | {part['status']} | " in done.stdout
    assert "| hangs | failed | " in done.stdout and "| 1/0/0 |" in done.stdout  # what it had done is kept
    assert "partly, failed: two: ValueError: 7" in done.stdout


def test_what_the_budget_does_not_hold_is_skipped_with_the_reason(tmp_path):
    good = WRITES.format(steps=[("one", "done", "")])
    done, parts = run_parts(
        tmp_path, "--budget-seconds", "2", "--parts", "second,first", first=(good, 9), second=(good, 9)
    )
    assert list(parts) == ["first", "second"] and done.returncode == 0
    assert {part["reason"] for part in parts.values()} == {"no time was left of 2 s"}
    assert "| first | skipped | 0 | 0/0/0 | no time was left of 2 s |" in done.stdout


def test_only_the_parts_that_were_asked_for_run(tmp_path):
    good = WRITES.format(steps=[("one", "done", "")])
    _, parts = run_parts(tmp_path, "--parts", "second", first=(good, 9), second=(good, 9))
    assert {name: part["status"] for name, part in parts.items()} == {"second": "done"}
    done, _ = run_parts(tmp_path, "--parts", "third", first=(good, 9))
    assert done.returncode == 1
    assert done.stderr == "benchmarks/gpu: --parts must be some of first, got 'third'\n"
    done, _ = run_parts(tmp_path, "--epoch", "3", first=(good, 9))  # found before the first part, not after the last
    assert done.returncode == 2 and "unrecognized arguments: --epoch 3" in done.stderr


def test_a_cell_that_is_cut_off_keeps_its_first_half(scripts, tmp_path):
    cells, kept = scripts("train_cells"), []
    file = tmp_path / "resnet18-badnets.json"
    file.write_text(json.dumps({"steps": [{"name": "resnet18:badnets:none", "status": "done", "seconds": 5}]}))
    file.with_suffix(".log").write_text("epoch 3\n")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    cells.settle(cells.Running("resnet18:badnets", process, file, time.monotonic(), 2), Namespace(add=kept.append))
    assert process.returncode == -9
    assert kept[0] == {"name": "resnet18:badnets:none", "status": "done", "seconds": 5, "cells_beside": 2}
    assert kept[1]["name"] == "resnet18:badnets:advrbd" and kept[1]["status"] == "skipped"
    assert kept[1]["reason"].startswith("the time was up after ")


def test_cells_run_alone_first_and_then_as_many_as_will_end(scripts):
    jobs_at = scripts("train_cells").jobs_at
    options = Namespace(dry_run=False, jobs=3)
    assert jobs_at(400, None, options) == 1 and jobs_at(5, None, options) == 0
    assert [jobs_at(left, 100, options) for left in (1000, 250, 150, 60, 40)] == [3, 2, 1, 1, 0]


def test_the_cells_name_networks_and_attacks_that_exist(scripts):
    from advrbd_plugin.attacks import ATTACKS
    from advrbd_plugin.nn.models import MODELS

    named = [cell.split(":") for cell in scripts("train_cells").CELLS.split(",")]
    assert named[0] == ["resnet18", "badnets"]
    assert sorted(named) == sorted([m, a] for m in ("preactresnet18", "resnet18") for a in (*ATTACKS, "none"))
    assert {model for model, _ in named} <= set(MODELS)


def test_a_missing_archive_is_one_line(scripts, tmp_path):
    from advrbd_plugin.errors import AdvrBDError

    with pytest.raises(
        AdvrBDError, match=r"^cifar10.tar.xz is not there: bring it along and name it with --photographs$"
    ):
        scripts("photographs").decode(tmp_path / "cifar10.tar.xz", tmp_path, 5.0)


def test_the_check_names_the_case_in_which_a_value_differs(scripts, monkeypatch):
    check = scripts("check_ops")
    right = check.ops.perturb

    def wrong_at_odd_offsets(images, grad, **options):
        result = right(images, grad, **options)
        if images.storage_offset() == 1 and images.dtype == torch.bfloat16:
            result[0, -1, -1, -1, -1] += 1
        return result

    monkeypatch.setattr(check, "DEVICE", torch.device("cpu"))
    assert check.check_perturb([(2, 3, 16, 16)]) == 3 * 2 * 9
    monkeypatch.setattr(check.ops, "perturb", wrong_at_odd_offsets)
    with pytest.raises(AssertionError, match=r"bfloat16 K=1 contiguous offset 1: 1 of 1536 values differ, first at "):
        check.check_perturb([(2, 3, 16, 16)])


class Event:
    """A GPU's event whose clock counts the calls."""

    calls = 0

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self):
        self.at = Event.calls

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) * 1.0  # a millisecond a call


def test_calls_are_timed_by_events_after_the_host_has_queued_them(scripts, monkeypatch):
    slept = []
    for name, stand_in in {"Event": Event, "synchronize": lambda: None, "_sleep": slept.append}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def call(tensor):
        Event.calls += 1
        return tensor

    sets = [(torch.zeros(1),), (torch.ones(1),)]
    times, dispatch = scripts("time_ops").time_calls(call, sets, Namespace(type="cuda"), 4)
    assert times == [0.001] * 4 and 0 < dispatch < 1
    assert len(slept) == 4 and min(slept) >= 1e5


def test_the_table_never_fills_more_than_sixty_lines(scripts):
    figures = {"acc": 0.9, "asr": None, "ra": 0.5}
    row = {"status": "done", "reason": "", "figures": figures, "seconds": 1.0, "training_images_per_second": 2.0}
    steps = {"train": [row | {"name": f"resnet18:a{n}:none", "cells_beside": 0} for n in range(90)]}
    summary = {
        "run": {"date": "2026-01-01", "commit": None, "sources": "0", "dry_run": False},
        "machine": {"gpu": "A GPU", "driver": "1", "torch": "2", "cuda": "13", "python": "3"},
        "parts": {"train": {"status": "done", "reason": "", "seconds": 3.0}},
    }
    lines = scripts("table").render(summary, steps).splitlines()
    assert len(lines) == 60 and lines[0] == "A GPU, driver 1, PyTorch 2, CUDA 13, Python 3"
    assert lines[1] == "2026-01-01, commit unknown, sources 0"
    assert "| resnet18:a0:none | 90.00 | - | 50.00 | - | - | - | 1.0 | 2 | 0 |" in lines
    assert lines[-1] == "... 40 more lines are in the JSON files"


def test_kernels_that_overlap_count_once(scripts):
    covered = scripts("launch_share").covered
    assert covered([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (6.0, 6.5)]) == 5.0
    assert covered([]) == 0.0


@pytest.mark.parametrize(("ms_a_step", "expected"), [(2.0, 2.0), (0.0, None), (-1.0, None)])
def test_a_step_is_what_twice_as_many_cost_more_and_nothing_where_they_cost_no_more(
    scripts, monkeypatch, ms_a_step, expected
):
    launch_share, now, beside = scripts("launch_share"), [0.0], iter([7.0, 0.0, 0.5] * 2)

    def work(steps):
        torch.ones(4).sin()
        now[0] += 0.1 + 1e-3 * ms_a_step * steps + next(beside, 0.0)

    monkeypatch.setattr(launch_share.time, "perf_counter", lambda: now[0])
    found = launch_share.launch_share(work, 5, torch.device("cpu"))
    assert found["ms_a_step"] == expected and found["kernels_a_step"] == 0
    assert (found["idle_share"] is None) == (expected is None)
