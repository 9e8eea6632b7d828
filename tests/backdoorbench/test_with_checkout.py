"""Against the real BackdoorBench: attack, defenses, detections and comparison on a small CIFAR-10 of photographs.

The checkout is found as the command line finds it and cloned, so that it is never touched. Set
``ADVRBD_BACKDOORBENCH_IMAGES`` to a folder with train.zip and test.zip if ../shared/data/cifar10 is not there.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from advrbd_plugin.backdoorbench.checkout import HOME_VARIABLE
from advrbd_plugin.backdoorbench.script_notes import SCRIPT_NOTES, refuse_hopeless
from advrbd_plugin.backdoorbench.scripts import planned_files
from advrbd_plugin.backdoorbench.small_cifar10 import write_cifar10
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.compare import read_cell

ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path(os.environ.get("ADVRBD_BACKDOORBENCH_IMAGES", ROOT.parent / "shared/data/cifar10"))
DEFENSES = ("ft", "fp", "clp", "d-br", "abl", "ac", "spectral", "ft-sam", "i-bau", "nad", "nc", "sau", "advrbd")
DETECTIONS = ("scan", "strip")
APART = ("abl", "d-br")  # run with options of their own, by another command


@pytest.fixture(scope="session")
def checkout(clone_backdoorbench, tmp_path_factory):
    """A clone of the user's checkout with 300 training and 100 test images, and AdvrBD registered in it."""
    if not (IMAGES / "train.zip").is_file():
        pytest.skip(
            f"no CIFAR-10 pictures at {IMAGES}: name a folder with train.zip and test.zip in "
            "ADVRBD_BACKDOORBENCH_IMAGES"
        )
    clone = clone_backdoorbench(tmp_path_factory.mktemp("backdoorbench"))
    assert git_status(clone) == ""
    # Fewer images leave abl and d-br with batches of one, which batch normalisation refuses.
    write_cifar10(IMAGES, clone / "data" / "cifar10", train=300, test=100)
    return clone


def write_mnist(root):
    """scikit-learn's digits in MNIST's own layout: 300 training and 100 test pictures."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = numpy.kron(digits.images[:400] * 15, numpy.ones((3, 3))).astype(numpy.uint8)
    pixels = numpy.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    (root / "MNIST/raw").mkdir(parents=True)
    for name, part in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
        images, labels = pixels[part], digits.target[part].astype(numpy.uint8)
        for kind, magic, content in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            head = struct.pack(f">{1 + content.ndim}I", magic, *content.shape)
            (root / f"MNIST/raw/{name}-{kind}-ubyte").write_bytes(head + content.tobytes())


def git_status(checkout):
    command = ["git", "-C", str(checkout), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def advrbd(checkout, *arguments, status=0, script=None):
    """Run a command of this package, or a script of the checkout, from the checkout's root."""
    command = [sys.executable, *([script] if script else ["-m", "advrbd_plugin.cli"]), *arguments]
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    settings[HOME_VARIABLE] = str(checkout)  # the user's own, which it may name, is never written to
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=os.environ | settings)
    expected = status if isinstance(status, tuple) else (status,)
    assert done.returncode in expected, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def attack(checkout, name, *, dataset="cifar10"):
    """A record made by the toolbox's own script: 1 epoch on a few hundred images. Its folder is ``name``."""
    options = ["--dataset", dataset, "--epochs", "1", "--batch_size", "32", "--num_workers", "0", "--pratio", "0.2"]
    options += ["--model", "resnet18"]  # fifteen times as fast as preactresnet18
    script, folder = f"attack/{name}.py", name if dataset == "cifar10" else f"{name}_{dataset}"
    advrbd(checkout, "backdoorbench", "run", "--local-data", script, *options, "--save_folder_name", folder)
    return checkout / "record" / folder


@pytest.fixture(scope="session")
def record(checkout):
    return attack(checkout, "badnet")


@pytest.fixture(scope="session")
def cells(checkout, record, tmp_path_factory):
    """Every defense and detection of DEFENSES and DETECTIONS, run by ``advrbd compare``."""
    quick = tmp_path_factory.mktemp("settings") / "clp.yaml"
    text = (checkout / "config/defense/clp/cifar10.yaml").read_text()
    quick.write_text(text.replace("u_num: 21", "u_num: 2"))
    advrbd(checkout, "register", str(checkout))
    command = ["compare", "--local-data", "--result_file", "badnet", "--device", "cpu"]
    command += ["--epochs", "1", "--batch_size", "64", "--num_workers", "0"]
    command += ["--for", f"clp: --yaml_path {quick}", "--for", "fp: --once_prune_ratio 0.3", "--for", "ac: --nb_dims 5"]
    command += ["--for", "scan: --clean_sample_num 50", "--for", "strip: --clean_sample_num 20"]
    command += ["--for", "i-bau: --n_rounds 1 --K 2", "--for", "nad: --te_epochs 1", "--for", "nc: --nc_epoch 1"]
    command += ["--for", "sau: --n_rounds 1"]
    command += ["--for", "advrbd: --enhancement_steps 5 --relearn_epochs 1"]
    # The detection of abl looks at one image at a time; the defense does so once already.
    slow = ["compare", "--local-data", "--result_file", "badnet", "--device", "cpu", "--num_workers", "0"]
    slow += ["--batch_size", "64", "--no-detection", "--defenses", ",".join(APART), "--for", "d-br: --debug"]
    slow += ["--for", "abl: --tuning_epochs 1 --finetuning_epochs 1 --unlearning_epochs 1"]
    advrbd(checkout, *slow)
    command += ["--defenses", ",".join(name for name in DEFENSES + DETECTIONS if name not in APART)]
    printed = advrbd(checkout, *command).stdout
    found = {name: read_cell(record / "defense" / name / "compare.json") for name in DEFENSES + DETECTIONS}
    return found, printed, command


def test_every_script_of_the_toolbox_runs_or_is_known_to_stop(checkout):
    """No defense or detection is forgotten, and those that cannot run say so before they start."""
    shared = {"__init__", "base", "dataset_load_mode", "agpd_utils", "spectre_utils"}
    folders = ("defense", "detection_pretrain", "detection_infer")
    paths = [path for folder in folders for path in (checkout / folder).glob("*.py") if path.stem not in shared]
    assert {path.relative_to(checkout).as_posix() for path in paths} - set(planned_files()) == set(SCRIPT_NOTES)
    stopped = [script for script, note in SCRIPT_NOTES.items() if note.fault]
    for script in stopped:
        with pytest.raises(AdvrBDError, match=f"{script} of BackdoorBench v2.2 runs on no machine: "):
            refuse_hopeless(script, [], checkout)
    done = advrbd(checkout, "backdoorbench", "run", stopped[0], "--result_file", "badnet", status=2)
    assert "runs on no machine" in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr


def test_what_a_script_needs_is_left_open_by_its_configuration(checkout):
    """The notes hold for the checkout's own configurations, and with what they name the script may start."""
    for script, note in SCRIPT_NOTES.items():
        if note.fault or note.modules or not note.options:
            continue
        folder, name = script.removesuffix(".py").split("/")
        configuration = f"config/{'defense' if folder == 'defense' else 'detection'}/{name}/cifar10.yaml"
        given = ["--yaml_path", configuration] if (checkout / configuration).is_file() else []
        with pytest.raises(AdvrBDError, match=f"{script} needs "):
            refuse_hopeless(script, given, checkout)
        if not note.yaml_keys:
            pairs = [word for option in note.options.items() for word in option]
            refuse_hopeless(script, [*given, *pairs], checkout)


def test_the_attack_wrote_a_record_that_is_read_safely(record):
    from advrbd_plugin.backdoorbench.record import read_record

    content = read_record(record)
    assert content.clean_data == "cifar10" and content.img_size == (32, 32, 3)
    assert int(content.bd_train["poison_indicator"].sum()) == 60


@pytest.mark.parametrize("name", DEFENSES)
def test_the_defense_runs_and_is_judged(cells, name):
    cell = cells[0][name]
    assert cell.problem is None
    assert all(0 <= share <= 1 for share in (cell.acc, cell.asr, cell.ra))
    assert cell.seconds > 0 and cell.peak_memory_bytes > 2**20


@pytest.mark.parametrize("name", ["ac", "spectral", "advrbd", *DETECTIONS])
def test_the_detection_runs(cells, name):
    cell = cells[0][name]
    assert cell.problem is None
    assert 0 <= cell.tpr <= 1 and 0 <= cell.fpr <= 1


def test_the_judge_agrees_with_the_toolbox(cells, record):
    """Our figures for a finished defense are those that its own CSV ends with."""
    rows = list(csv.DictReader((record / "defense/ft/ft_df.csv").open()))
    cell = cells[0]["ft"]
    assert float(rows[-1]["test_acc"]) == pytest.approx(cell.acc, abs=0.011)
    assert float(rows[-1]["test_asr"]) == pytest.approx(cell.asr, abs=0.012)
    assert float(rows[-1]["test_ra"]) == pytest.approx(cell.ra, abs=0.012)


def test_a_finished_table_is_only_printed_again(cells, checkout):
    _, printed, command = cells
    again = advrbd(checkout, *command).stdout
    assert again.count("cached, it was finished before") == len(DEFENSES + DETECTIONS) - len(APART)
    table = [line for line in printed.splitlines() if line.startswith("│")]
    assert table and [line for line in again.splitlines() if line.startswith("│")] == table
    for ending in ("csv", "md", "tex"):
        assert (checkout / f"record/badnet/comparison.{ending}").stat().st_size > 0


def test_two_records_give_the_papers_layout(cells, checkout):
    """Attacks down, defenses across, averages below; the cells of the first record are cached."""
    attack(checkout, "blended")
    command = ["compare", "--local-data", "--result_file", "badnet,blended", "--defenses", "ft,nab", "--device", "cpu"]
    done = advrbd(checkout, *command, "--epochs", "1", "--batch_size", "64", "--num_workers", "0", "--out", "both")
    rows = list(csv.DictReader((checkout / "both/comparison.csv").open()))
    assert [(row["record"], row["defense"]) for row in rows] == [
        (record, defense) for record in ("badnet", "blended") for defense in ("none", "ft", "nab")
    ]
    assert "badnet / ft: cached" in done.stdout and "runs on no machine" in rows[2]["problem"]
    lines = (checkout / "both/comparison.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| badnet", "| blended", "| average"]
    means = [sum(float(row[name]) for row in rows if row["defense"] == "ft") / 2 for name in ("ACC", "ASR", "RA")]
    assert " / ".join(f"{100 * mean:.1f}" for mean in means) in lines[-1]


def test_mnist_is_attacked_and_judged(checkout):
    """The toolbox's networks take three channels; its own scripts see MNIST so under ``backdoorbench run``."""
    write_mnist(checkout / "data/mnist")
    attack(checkout, "badnet", dataset="mnist")
    command = ["compare", "--local-data", "--result_file", "badnet_mnist", "--defenses", "ft", "--device", "cpu"]
    advrbd(checkout, *command, "--epochs", "1", "--batch_size", "64", "--num_workers", "0", "--ratio", "0.5")
    cell = read_cell(checkout / "record/badnet_mnist/defense/ft/compare.json")
    assert cell.problem is None and 0 <= cell.acc <= 1


def test_advrbd_writes_what_its_siblings_write(cells, record):
    own, sibling = record / "defense/advrbd", record / "defense/ft"
    header = {folder.name: next(csv.reader((folder / f"{folder.name}_df.csv").open())) for folder in (own, sibling)}
    assert header["advrbd"] == header["ft"]
    summaries = [list(csv.reader((folder / f"{folder.name}_df_summary.csv").open())) for folder in (own, sibling)]
    assert [row[0] for row in summaries[0]] == [row[0] for row in summaries[1]]
    for name in ("acc_like_metric_plots.png", "loss_metric_plots.png", "summary.json", "verdicts.csv"):
        assert (own / name).stat().st_size > 0
    assert list((own / "log").glob("*.log"))


def test_advrbd_works_through_the_toolboxs_own_transforms(cells, checkout, record):
    """``defense_result.pt`` gives the same accuracy behind the toolbox's normalisation as AdvrBD reported."""
    program = """
import sys
from advrbd_plugin.backdoorbench import compat
compat.apply_patches(); compat.use_local_data()
sys.path.insert(0, ".")
import torch
from utils.save_load_attack import load_attack_result
from utils.aggregate_block.model_trainer_generate import generate_cls_model
result = load_attack_result("record/badnet/attack_result.pt")
saved = torch.load("record/badnet/defense/advrbd/defense_result.pt")
model = generate_cls_model(saved["model_name"], saved["num_classes"])
model.load_state_dict(saved["model"])
model.eval()
images, labels = zip(*[result["clean_test"][index] for index in range(100)])
with torch.no_grad():
    print("accuracy", float((model(torch.stack(images)).argmax(1) == torch.tensor(labels)).float().mean()))
"""
    accuracy = float(advrbd(checkout, "-c", program, script="-B").stdout.split("accuracy")[-1])
    summary = json.loads((record / "defense/advrbd/summary.json").read_text())
    assert accuracy == pytest.approx(summary["defended"]["test_acc"])


def test_the_detection_script_writes_its_siblings_columns(cells, checkout, record):
    options = ["--result_file", "badnet", "--device", "cpu", "--local_data"]
    options += ["--yaml_path", "./config/defense/advrbd/cifar10.yaml", "--epochs", "1", "--batch_size", "64"]
    options += ["--enhancement_steps", "5", "--relearn_epochs", "1"]
    advrbd(checkout, *options, script="detection_pretrain/advrbd.py")
    rows = list(csv.reader((record / "detection/advrbd_pretrain/detection_info.csv").open()))
    siblings = list(csv.reader((record / "detection/spectral_pretrain/detection_info.csv").open()))
    assert rows[0] == siblings[0] == ["record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target"]
    assert sum(int(count) for count in rows[1][1:5]) == 300
    assert rows[1][5:7] == [str(cells[0]["advrbd"].tpr), str(cells[0]["advrbd"].fpr)]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--result_file", "nothing"], "there is no record nothing"),
        (["--result_file", "badnet", "--model", "resnet999"], "--model resnet999 is none of BackdoorBench's"),
        (["--result_file", "badnet", "--dataset", "cifar100"], "record badnet was made on cifar10"),
        (["--result_file", "badnet", "--device", "cuda"], "this PyTorch sees no CUDA device"),
    ],
)
def test_mistakes_are_one_line(cells, checkout, options, said):
    done = advrbd(checkout, "--local_data", *options, script="defense/advrbd.py", status=2)
    assert said in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr


def test_a_record_is_scanned_and_cleaned_as_any_data_is(checkout, record, tmp_path):
    scan, out = tmp_path / "scan", tmp_path / "out"
    found = (0, 3, 4)  # whatever a short training learns
    advrbd(checkout, "scan", str(record), "--out", str(scan), "--epochs", "1", "--device", "cpu", status=found)
    with (scan / "verdicts.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 300 and set(rows[0]) >= {"id", "verdict"}
    poisoned = {int(row["id"]) for row in rows if row["verdict"] == "poisoned"}
    told = advrbd(checkout, "clean", str(record), "--verdicts", str(scan / "verdicts.csv"), "--out", str(out), "--json")
    assert json.loads(told.stdout)["images"] == 300 - len(poisoned)
    files = {int(file.stem): file for file in out.rglob("*.png")}
    assert set(files) == set(range(300)) - poisoned
    triggered = {int(file.stem): file for file in (record / "bd_train_dataset").rglob("*.png")}
    assert set(triggered) & set(files)
    for index in set(triggered) & set(files):  # the very pixels of the attack
        written, attacked = (numpy.asarray(Image.open(place[index]).convert("RGB")) for place in (files, triggered))
        assert (written == attacked).all()


def test_the_small_example_of_the_page_runs_as_it_is_written(clone_backdoorbench, checkout, tmp_path):
    page = (ROOT / "docs" / "backdoorbench.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"^\$ advrbd ((?:.*\\\n)*.*)$", example, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["register", "backdoorbench", "backdoorbench", "compare"]
    clone = clone_backdoorbench(tmp_path)
    for command in commands:
        words = command.replace("\\\n", " ").replace("IMAGES", shlex.quote(str(IMAGES.resolve())))
        done = advrbd(clone, *shlex.split(words))
    for defense in ("advrbd", "ft", "fp"):
        assert re.search(rf"^│ {defense} +│ +\d", done.stdout, re.MULTILINE), done.stdout


def test_the_checkout_is_left_as_it_was(cells, checkout):
    """Runs last: nothing but data, records and the registered files stands in the clone; unregister takes those."""
    allowed = {"?? data/", "?? both/"} | {f"?? record/{path.name}/" for path in (checkout / "record").glob("b*")}
    added = {line.removeprefix("?? ") for line in git_status(checkout).splitlines() if line not in allowed}
    assert "defense/advrbd.py" in added and "config/defense/advrbd/" in added
    for place in added:  # a new folder stands as one line for all that is in it
        assert any(name.startswith(place) for name in planned_files()), place
    advrbd(checkout, "unregister", str(checkout))
    assert set(git_status(checkout).splitlines()) == allowed
