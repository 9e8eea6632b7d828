"""Running a grid: order, resuming, failing cells, stopping."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.estimate import Estimate
from advrbd_plugin.evaluation.grid_job import current_result, kind_of, measured_seconds, run_grid
from advrbd_plugin.evaluation.result import Result, read_result, read_results, write_result

from .conftest import fake_command, small_cell


def run(cells, options, display, **more):
    return run_grid(cells, options, display, command=fake_command, **more)


def what_ran(options) -> list[str]:
    path = Path(options.work) / "ran"
    return [line.split("/")[-1] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_cell_waits_for_its_backdoored_model(options, display, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    cells = [small_cell(), small_cell(method="clean_only"), small_cell(method="advrbd")]
    results = run(cells, options, display, jobs=2)
    assert [result.content["status"] for result in results] == ["done"] * 3
    assert display.events.index("done badnets/none") < display.events.index("started badnets/advrbd")
    assert display.events.index("started badnets/clean_only") < display.events.index("done badnets/none")
    assert {line.split()[1] for line in what_ran(options)} == {"1"}  # one thread each, since two run at a time
    assert results[0].figure("asr") == 0.1
    assert results[0].path == Path(options.out, "small/cifar10/resnet_narrow/badnets-0.05-seed0/none.json")


def test_what_is_done_is_skipped_and_what_has_other_settings_is_not(options, display):
    cells = [small_cell(), small_cell(method="advrbd")]
    run(cells, options, display)
    assert len(what_ran(options)) == 2
    run(cells, options, display)
    assert len(what_ran(options)) == 2 and display.events[-1] == "0 waiting, 2 cached"
    run(cells, replace(options, settings={"num_masks": 3}), display)
    assert [line.split()[0] for line in what_ran(options)[2:]] == ["advrbd"]  # the training has no masks
    run(cells, replace(options, settings={"num_masks": 3}), display, rerun=True)
    assert len(what_ran(options)) == 5


def test_another_training_or_another_set_asks_for_the_repairs_again(options, display):
    cells = [small_cell(), small_cell(method="cutmix"), small_cell(method="clean_only")]
    run(cells, options, display)
    longer = replace(options, settings={"epochs": 3})
    run(cells, longer, display)
    assert len(what_ran(options)) == 6
    run(cells, longer, display)
    assert len(what_ran(options)) == 6
    for cell, fingerprint in zip(cells, "aab", strict=True):
        content = read_result(options.out, cell).content
        write_result(options.out, cell, content | {"data": {"fingerprint": fingerprint}})
    run(cells, longer, display)
    assert [line.split()[0] for line in what_ran(options)[6:]] == ["clean_only"]


@pytest.mark.parametrize(
    "algorithm", [None, {"version": 0, "digest": "0" * 16}, current_algorithm() | {"digest": "0" * 16}]
)
def test_a_cell_of_another_algorithm_is_missing(options, display, algorithm):
    cells = [small_cell(), small_cell(method="advrbd"), small_cell(method="ulrl")]
    run(cells, options, display)
    assert all(current_result(cell, options) for cell in cells)
    for cell in cells:
        content = {**read_result(options.out, cell).content, "algorithm": algorithm}
        if algorithm is None:
            del content["algorithm"]
        write_result(options.out, cell, content)
    assert [current_result(cell, options) is None for cell in cells] == [False, True, True]
    run(cells, options, display)
    assert [line.split()[0] for line in what_ran(options)[3:]] == ["advrbd", "ulrl"]
    assert current_result(cells[1], options).content["algorithm"] == current_algorithm()


def test_a_file_from_before_the_training_was_kept_counts_as_the_scales(options, display):
    cells = [small_cell(), small_cell(method="cutmix")]
    run(cells, options, display)
    for cell in cells:
        content = read_result(options.out, cell).content
        write_result(options.out, cell, {name: value for name, value in content.items() if name != "training"})
    run(cells, options, display)
    assert len(what_ran(options)) == 2
    run(cells, replace(options, settings={"epochs": 3}), display)
    assert len(what_ran(options)) == 4


def test_figures_outlive_a_run_that_fails(options, display):
    cell = small_cell()
    run([cell], options, display)
    (failed,) = run_grid([cell], options, display, rerun=True, command=lambda *_: ["sh", "-c", "kill -9 $$"])
    assert "killed by SIGKILL" in failed.reason and failed.path.suffix == ".failed" and failed.path.exists()
    (not_run,) = run([cell], replace(options, data="nowhere"), display, rerun=True)
    assert not_run.reason.startswith("cifar10 is not in nowhere")
    assert read_result(options.out, cell).figure("acc") == 0.8 and len(list(read_results(options.out))) == 1
    run([cell], options, display, rerun=True)
    assert not failed.path.exists()


def test_failing_cells_are_recorded_and_the_others_go_on(options, display):
    cells = [
        small_cell("sig"),
        small_cell("sig", "advrbd"),
        small_cell("wanet"),
        small_cell("wanet", "clean_only"),
        small_cell("tact"),
    ]
    failed, dependent, crashed, clean_only, fine = run(cells, options, display)
    assert (failed.content["status"], failed.reason) == ("failed", "sig can poison 10 of these 20 images")
    assert dependent.content["status"] == "not run"
    assert dependent.reason == "there is no backdoored model: sig can poison 10 of these 20 images"
    assert crashed.content["status"] == clean_only.content["status"] == "failed"
    assert "status 1: RuntimeError: a tensor is of the wrong size (see " in crashed.reason
    assert fine.is_done and failed.figure("acc") is None


def test_a_failed_cell_is_tried_again(options, display):
    run([small_cell("sig")], options, display)
    run([small_cell("sig")], options, display)
    assert len(what_ran(options)) == 2


def test_a_killed_cell_says_so(options, display):
    def command(cell, options):
        return ["sh", "-c", "kill -9 $$"]

    (result,) = run_grid([small_cell()], options, display, command=command)
    assert result.reason.startswith("its process was killed by SIGKILL (out of memory?): it said nothing (see ")


def test_without_data_or_toolbox_a_cell_is_not_run(options, display, tmp_path):
    options = replace(options, backdoorbench=str(tmp_path))
    cells = [small_cell(), small_cell(method="ft"), small_cell(dataset="gtsrb")]
    done, without_toolbox, without_data = run(cells, options, display)
    assert done.is_done
    assert without_toolbox.content["status"] == without_data.content["status"] == "not run"
    assert "advrbd_plugin[backdoorbench]" in without_toolbox.reason or "backdoorbench install" in without_toolbox.reason
    assert without_data.reason.startswith(f"gtsrb is not in {options.data}")
    assert "started badnets/ft" not in display.events


@pytest.fixture
def heard():
    """Processes in a shell's background ignore SIGINT, those under nohup SIGHUP; here they heed both."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send_when_a_cell_runs(number, options) -> None:
    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while not what_ran(options) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()


def test_ctrl_c_ends_the_processes_and_leaves_nothing_half_written(options, display, heard):
    send_when_a_cell_runs(signal.SIGINT, options)
    with pytest.raises(KeyboardInterrupt):
        run([small_cell("blend"), small_cell("tact")], options, display)
    assert list(read_results(options.out)) == []
    assert not list(Path(options.out).rglob("*.part")) and len(what_ran(options)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_the_processes_too(options, display, heard, number):
    send_when_a_cell_runs(number, options)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run([small_cell("blend")], options, display)
    assert signal.getsignal(number) == before


def test_the_grid_has_an_eta_once_a_cell_was_measured(options, display):
    run([small_cell(), small_cell("tact")], options, display)
    assert display.remaining[0] is None and display.remaining[-1] is not None


def done(cell, seconds: float, **stages: float) -> Result:
    return Result(cell, {"status": "done", "seconds": seconds} | ({"stage_seconds": stages} if stages else {}), Path())


def test_the_estimate_by_hand():
    estimate = Estimate()
    none, advrbd, other = map(kind_of, (small_cell(), small_cell(method="advrbd"), small_cell(model="resnet18")))
    assert estimate.remaining([none], [], 1) is None
    for result in (
        done(small_cell(), 8.0),
        done(small_cell("tact"), 12.0, training=11.0),
        done(small_cell("sig"), 1.0, training=0.01),  # its model was there already
    ):
        estimate.add(kind_of(result.cell), measured_seconds(result))
    assert estimate.seconds(none) == 10.0
    assert estimate.seconds(advrbd) == 20.0  # costs as much as two trainings
    assert estimate.seconds(other) is None
    assert estimate.remaining([none, advrbd], [(none, 4.0)], 2) == (10 + 20 + 6) / 2
    assert estimate.remaining([], [(advrbd, 5.0)], 4) == 15.0  # no faster than its longest cell
    assert estimate.remaining([], [(none, 40.0)], 1) == 0.0 == estimate.remaining([], [], 1)


def test_the_estimate_learns_from_cells_of_other_grids(options, display):
    run([small_cell(), small_cell("tact")], options, display)
    display.remaining.clear()
    run([small_cell("sig")], options, display)
    assert display.remaining[0] is not None


def test_a_file_that_is_no_result_is_named(options):
    path = Path(options.out) / small_cell().path
    path.parent.mkdir(parents=True)
    wrong = [{"tool": "other"}, {"tool": "advrbd reproduce", "status": "done"}]
    for content in ("{", "[]", *map(json.dumps, wrong)):
        path.write_text(content)
        with pytest.raises(AdvrBDError, match="none.json is no result of advrbd reproduce"):
            read_result(options.out, small_cell())
