"""One of our methods as BackdoorBench knows a defense: what the class of a ``defense/*.py`` does.

A method subclasses :class:`DefenseScript`, and ``advrbd_plugin.backdoorbench.scripts`` lists it; the thin scripts that
``advrbd register`` writes put its methods in front of the checkout's ``defense.base.defense``. This module imports the
checkout's own modules (``utils``, ``models``, ``dataset``) inside its functions, so the checkout's root must be on
``sys.path`` when they are called.
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
from typing import Any, ClassVar

from torch import nn

from advrbd_plugin.backdoorbench.classifiers import attacked_model, maker_for, toolbox_state
from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
from advrbd_plugin.backdoorbench.datasets import PoisonTruth, clean_samples, load_result, test_sets, training_set
from advrbd_plugin.backdoorbench.outputs import (
    DetectionCounts,
    Outcome,
    count_detection,
    write_detection_info,
    write_metrics,
    write_verdicts,
)
from advrbd_plugin.backdoorbench.record import AttackRecord, read_record, record_folder
from advrbd_plugin.backdoorbench.run import TRUST_RECORD_VARIABLE, refuse_missing_cuda
from advrbd_plugin.backdoorbench.settings import add_arguments, read_settings, takes_option
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json
from advrbd_plugin.settings import Settings


class DefenseScript:
    """The methods that every defense of BackdoorBench has; a subclass says what :meth:`run` does.

    ``args`` is a namespace as :meth:`add_arguments` makes it; ``result`` is what ``load_attack_result`` returns.

    Attributes:
        name: of its scripts, its configurations and the folder of its results.
        title: what the log calls it.
        config_class: its settings.
        uses_training_set: whether it needs the poisoned training set, which a few attacks do not save.
        uses_clean_samples: whether it needs clean samples (``--ratio``, ``--index``).
        repairs: whether it works on the attacked model, so that ``--model`` cannot ask for another architecture.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[Settings]]
    uses_training_set: ClassVar[bool] = True
    uses_clean_samples: ClassVar[bool] = False
    repairs: bool = False

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Do the method's work.

        At hand are ``self.config``, ``self.device``, ``self.work_dir`` (for unfinished work), :meth:`new_model`,
        :meth:`attacked_model` and, if it ``uses_clean_samples``, :meth:`clean_samples`.

        Args:
            train_set: the poisoned training set, without the truth about it; ``None`` where the method uses none.
        """
        raise NotImplementedError

    def __init__(self, args: argparse.Namespace) -> None:
        settings = read_settings(vars(args), self.config_class, clean_samples=self.uses_clean_samples)
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

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add BackdoorBench's options and the method's own to ``parser``."""
        default_yaml = f"./config/defense/{cls.name}/config.yaml"
        add_arguments(parser, default_yaml, cls.config_class, clean_samples=cls.uses_clean_samples)

    @classmethod
    def takes_option(cls, option: str) -> bool:
        """Whether the method's scripts know ``option`` (``--epochs``)."""
        return takes_option(option, cls.config_class, clean_samples=cls.uses_clean_samples)

    def set_result(self, result_file: str) -> None:
        """Read ``record/RESULT_FILE`` and make the folders that the results go to.

        Raises:
            AdvrBDError: there is no such record, it is damaged or unsafe, its dataset is not here, or
                ``--dataset`` names another one.
        """
        args = self.args
        folder = record_folder(Path.cwd(), result_file)
        if self.record is None or self.record.folder != folder:
            apply_patches_for_modules()
            if args.local_data:
                use_local_data()
            trust = bool(args.trust_record or os.environ.get(TRUST_RECORD_VARIABLE))
            self.record = read_record(folder, trust=trust)
            self._check_dataset()
            if self.uses_training_set:
                self.record.need_training_set()
            self.result = load_result(self.record, args.dataset_path)
        args.result_file = result_file
        args.dataset = self.record.clean_data
        args.model = args.model or self.record.model_name
        if self.repairs and args.model != self.record.model_name:
            raise AdvrBDError(
                f"--model {args.model}: {self.title} works on the attacked model, which is a "
                f"{self.record.model_name}; leave --model out"
            )
        args.num_classes = self.record.num_classes
        args.input_height, args.input_width, args.input_channel = args.img_size = self.record.img_size
        args.save_path = f"record/{result_file}/defense/{self.name}/"
        args.detection_path = f"record/{result_file}/detection/{self.name}_pretrain/"
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
        logging.info("%s: %s", self.title, pformat(self.config))
        if self.settings.unused:
            options = ", ".join(f"--{name}" for name in self.settings.unused)
            logging.warning("%s has no use for %s", self.title, options)

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
        """Make the defended model and write everything into ``record/NAME/defense/METHOD/``.

        Returns:
            ``{"model": ...}`` with the toolbox's model (for normalised input), as the other defenses do.
        """
        outcome, train_set, truth = self._run()
        from utils.save_load_attack import save_defense_result

        folder = Path(self.args.save_path)
        folder.mkdir(parents=True, exist_ok=True)
        counts = self._write_detection(folder, outcome, train_set, truth)
        tests = test_sets(self.result, self.record)
        figures = write_metrics(folder, self.name, outcome, tests, self.device)
        state = toolbox_state(outcome.model)
        save_defense_result(self.args.model, self.args.num_classes, state, self.args.save_path)
        self._write_summary(outcome, counts, figures)
        return {"model": outcome.model.classifier.cpu()}

    def filtering(self) -> DetectionCounts:
        """Find the poisoned samples and write ``detection_info.csv``, as the other detections do.

        Raises:
            AdvrBDError: the method judges no samples.
        """
        outcome, train_set, truth = self._run()
        folder = Path(self.args.detection_path)
        folder.mkdir(parents=True, exist_ok=True)
        counts = self._write_detection(folder, outcome, train_set, truth)
        if counts is None:
            raise AdvrBDError(f"{self.title} judges no samples, so it is no detection")
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

    @property
    def work_dir(self) -> Path:
        """Where unfinished work is kept, so that a run that was killed goes on."""
        path = Path(self.args.checkpoint_save)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def new_model(self) -> nn.Module:
        """An untrained ``args.model`` that takes pixel-scale images."""
        return maker_for(self.record, self.args.model)()

    def attacked_model(self) -> nn.Module:
        """The record's model, on ``self.device``, for pixel-scale images, in eval mode."""
        return attacked_model(self.record).to(self.device)

    def clean_samples(self) -> ImageSet:
        """The clean training samples that ``--ratio`` draws by the seed or ``--index`` names.

        Raises:
            AdvrBDError: neither is given, or the file names samples that are not there.
        """
        return clean_samples(
            self.result, self.record, ratio=self.args.ratio, index=self.args.index, seed=self.config.seed
        )

    def _run(self) -> tuple[Outcome, ImageSet | None, PoisonTruth | None]:
        """Run the method on the poisoned training set alone; the truth goes past it, to the report."""
        self.set_devices()
        self.new_model()  # an unknown architecture is said now, not after the first stage's preparations
        if not self.uses_training_set:
            return self.run(None), None, None
        train_set, truth = training_set(self.result, self.record)
        return self.run(train_set), train_set, truth

    def _check_dataset(self) -> None:
        wanted = self.args.dataset
        if wanted is not None and wanted != self.record.clean_data:
            raise AdvrBDError(
                f"--dataset {wanted}: record {self.record.name} was made on {self.record.clean_data}; "
                "leave --dataset out or take the configuration of that dataset"
            )

    def _write_detection(
        self, folder: Path, outcome: Outcome, train_set: ImageSet | None, truth: PoisonTruth | None
    ) -> DetectionCounts | None:
        if outcome.verdicts is None or train_set is None or truth is None:
            return None
        counts = count_detection(truth.poisoned, outcome.verdicts.poisoned)
        write_verdicts(folder, train_set, outcome)
        write_detection_info(folder, self.args.result_file, counts, outcome.suspected_classes)
        return counts

    def _write_summary(self, outcome: Outcome, counts: DetectionCounts | None, figures: dict[str, Any]) -> None:
        import torch

        summary = {
            "record": self.args.result_file,
            "model": self.args.model,
            "suspected_classes": [int(label) for label in outcome.suspected_classes],
            "defended": figures["defended"],
            "undefended": figures["undefended"],
            "detection": None if counts is None else counts.to_mapping(),
            "seconds": {stage: float(seconds) for stage, seconds in outcome.seconds.items()},
            "config": outcome.config.to_mapping(),
            "device": str(self.device),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            **outcome.notes,
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
