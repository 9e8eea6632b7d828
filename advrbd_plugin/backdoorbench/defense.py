"""AdvrBD as BackdoorBench knows a defense: the methods of the class ``advrbd`` and what its scripts do.

The thin scripts that ``advrbd register`` writes put these methods in front of the checkout's
``defense.base.defense``. This module imports the checkout's own modules (``utils``, ``models``, ``dataset``)
inside its functions, so the checkout's root must be on ``sys.path`` when they are called.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path
from pprint import pformat
from typing import Any

from advrbd_plugin.backdoorbench.classifiers import model_maker, toolbox_state
from advrbd_plugin.backdoorbench.compat import apply_mends_for_modules, take_data_as_it_is
from advrbd_plugin.backdoorbench.datasets import PoisonTruth, load_result, test_sets, training_set
from advrbd_plugin.backdoorbench.log_progress import LogProgress
from advrbd_plugin.backdoorbench.outputs import (
    DetectionCounts,
    count_detection,
    write_detection_info,
    write_metrics,
    write_verdicts,
)
from advrbd_plugin.backdoorbench.record import AttackRecord, read_record, record_folder
from advrbd_plugin.backdoorbench.run import TRUST_RECORD_VARIABLE, refuse_missing_cuda
from advrbd_plugin.backdoorbench.settings import add_arguments, read_settings
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json

DEFAULT_YAML = "./config/defense/advrbd/config.yaml"


class AdvrBDMethods:
    """The methods that every defense of BackdoorBench has, working on AdvrBD.

    ``args`` is a namespace as :meth:`add_arguments` makes it; ``result`` is what ``load_attack_result`` returns.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        settings = read_settings(vars(args))
        self.settings = settings
        self.config = settings.config
        args.__dict__.update(settings.options)
        args.terminal_info = sys.argv
        if args.device is not None:
            refuse_missing_cuda(args.device)
        self.args = args
        self.record: AttackRecord | None = None
        self.result: dict[str, Any] | None = None
        if args.result_file is not None:
            self.set_result(args.result_file)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add BackdoorBench's options and AdvrBD's own to ``parser``."""
        add_arguments(parser, DEFAULT_YAML)

    def set_result(self, result_file: str) -> None:
        """Read ``record/RESULT_FILE`` and make the folders that the results go to.

        Raises:
            AdvrBDError: there is no such record, it is damaged or unsafe, its dataset is not here, or
                ``--dataset`` names another one.
        """
        args = self.args
        folder = record_folder(Path.cwd(), result_file)
        if self.record is None or self.record.folder != folder:
            apply_mends_for_modules()
            if args.local_data:
                take_data_as_it_is()
            trust = bool(args.trust_record or os.environ.get(TRUST_RECORD_VARIABLE))
            self.record = read_record(folder, trust=trust)
            self._check_dataset()
            self.record.need_training_set()
            self.result = load_result(self.record, args.dataset_path)
        args.result_file = result_file
        args.dataset = self.record.clean_data
        args.model = args.model or self.record.model_name
        args.num_classes = self.record.num_classes
        args.input_height, args.input_width, args.input_channel = args.img_size = self.record.img_size
        args.save_path = f"record/{result_file}/defense/advrbd/"
        args.detection_path = f"record/{result_file}/detection/advrbd_pretrain/"
        args.checkpoint_save = args.checkpoint_save or args.save_path + "checkpoint/"
        args.log = args.log or args.save_path + "log/"

    def set_logger(self) -> None:
        """Log to the console and to a new file in ``args.log``, as the other defenses do."""
        Path(self.args.log).mkdir(parents=True, exist_ok=True)
        line = logging.Formatter(
            fmt="%(asctime)s [%(levelname)-8s] [%(filename)s:%(lineno)d] %(message)s", datefmt="%Y-%m-%d:%H:%M:%S"
        )
        logger = logging.getLogger()
        for handler in list(logger.handlers):
            # The toolbox's modules log while they are imported, which makes logging add one that repeats each line.
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)
        name = time.strftime("%Y_%m_%d_%H_%M_%S", time.localtime())
        for handler in (logging.FileHandler(f"{self.args.log}/{name}.log"), logging.StreamHandler()):
            handler.setFormatter(line)
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logging.info(pformat(vars(self.args)))
        logging.info("AdvrBD: %s", pformat(self.config))
        if self.settings.unused:
            logging.warning("AdvrBD has no use for %s", ", ".join(f"--{name}" for name in self.settings.unused))

    def set_devices(self) -> None:
        """Settle on ``args.device``; without it, CUDA where there is one.

        Raises:
            AdvrBDError: CUDA is asked for and this PyTorch has none.
        """
        import torch

        wanted = self.args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        refuse_missing_cuda(wanted)
        try:
            self.device = torch.device(wanted)
        except RuntimeError as error:
            raise AdvrBDError(f"--device {wanted} is no device; take cuda, cuda:1 or cpu") from error
        self.args.device = wanted

    def mitigation(self) -> dict[str, Any]:
        """Train the clean model and write everything into ``record/NAME/defense/advrbd/``.

        Returns:
            ``{"model": ...}`` with the toolbox's model (for normalised input), as the other defenses do.
        """
        outcome, train_set, truth = self._run()
        from utils.save_load_attack import save_defense_result

        tests = test_sets(self.result, self.record)
        Path(self.args.save_path).mkdir(parents=True, exist_ok=True)
        counts = count_detection(truth.poisoned, outcome.verdicts.poisoned)
        write_verdicts(Path(self.args.save_path), train_set, outcome)
        write_detection_info(Path(self.args.save_path), self.args.result_file, counts, outcome.accused_labels)
        figures = write_metrics(Path(self.args.save_path), outcome, tests, self.settings.config.batch_size, self.device)
        state = toolbox_state(outcome.model)
        save_defense_result(self.args.model, self.args.num_classes, state, self.args.save_path)
        self._write_summary(outcome, counts, figures)
        return {"model": outcome.model.classifier.cpu()}

    def filtering(self) -> DetectionCounts:
        """Find the poisoned samples and write ``detection_info.csv``, as the other detections do."""
        outcome, train_set, truth = self._run()
        counts = count_detection(truth.poisoned, outcome.verdicts.poisoned)
        folder = Path(self.args.detection_path)
        folder.mkdir(parents=True, exist_ok=True)
        write_verdicts(folder, train_set, outcome)
        write_detection_info(folder, self.args.result_file, counts, outcome.accused_labels)
        logging.info("TPR %s FPR %s", counts.tpr, counts.fpr)
        return counts

    def defense(self, result_file: str) -> dict[str, Any]:
        """Run the mitigation on ``record/RESULT_FILE``."""
        self.set_result(result_file)
        self.set_logger()
        return self.mitigation()

    def detection(self, result_file: str) -> DetectionCounts:
        """Run the detection on ``record/RESULT_FILE``."""
        self.set_result(result_file)
        self.args.log = self.args.detection_path + "log/"
        self.set_logger()
        return self.filtering()

    def _run(self) -> tuple[Any, ImageSet, PoisonTruth]:
        """Run AdvrBD on the poisoned training set alone; the truth goes past it, to the report."""
        from advrbd_plugin.advrbd import AdvrBD

        self.set_devices()
        train_set, truth = training_set(self.result, self.record)
        make = self._model_maker()
        work_dir = Path(self.args.checkpoint_save)
        work_dir.mkdir(parents=True, exist_ok=True)
        method = AdvrBD(make, self.config, device=self.device, work_dir=work_dir, progress=LogProgress())
        return method.fit(train_set), train_set, truth

    def _model_maker(self) -> Any:
        size = self.record.img_size[0]
        make = model_maker(
            self.args.model, num_classes=self.record.num_classes, image_size=size, dataset=self.record.clean_data
        )
        make()  # an unknown architecture is said now, not after the first stage's preparations
        return make

    def _check_dataset(self) -> None:
        wanted = self.args.dataset
        if wanted is not None and wanted != self.record.clean_data:
            raise AdvrBDError(
                f"--dataset {wanted}: record {self.record.name} was made on {self.record.clean_data}; "
                "leave --dataset out or take the configuration of that dataset"
            )

    def _write_summary(self, outcome: Any, counts: DetectionCounts, figures: dict[str, Any]) -> None:
        import torch

        summary = {
            "record": self.args.result_file,
            "model": self.args.model,
            "accused_labels": [int(label) for label in outcome.accused_labels],
            "defended": figures["defended"],
            "undefended": figures["undefended"],
            "detection": counts.to_mapping(),
            "seconds": {stage: float(seconds) for stage, seconds in outcome.seconds.items()},
            "config": outcome.config.to_mapping(),
            "device": str(self.device),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }
        write_json(Path(self.args.save_path) / "summary.json", json.loads(json.dumps(summary, default=str)))
        logging.info("defended %s, undefended %s", figures["defended"], figures["undefended"])


def main(method: type, action: str) -> None:
    """Run one of the thin scripts: parse the command line, then ``method(args).defense`` or ``.detection``.

    A user's error is one line on stderr and exit status 1.
    """
    parser = argparse.ArgumentParser(description=method.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    method.add_arguments(parser)
    args = parser.parse_args()
    try:
        if args.result_file is None:
            raise AdvrBDError("--result_file NAME is needed: the record, record/NAME, that an attack script wrote")
        getattr(method(args), action)(args.result_file)
    except AdvrBDError as error:
        print(f"advrbd: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
