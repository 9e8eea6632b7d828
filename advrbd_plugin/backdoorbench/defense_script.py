"""One of our methods as a defense of BackdoorBench: what the class of a ``defense/*.py`` does.

A method subclasses :class:`DefenseScript`, and ``advrbd_plugin.backdoorbench.scripts`` lists it. The thin scripts that
``advrbd register`` writes put its methods in front of the checkout's ``defense.base.defense``. This module imports the
checkout's own modules (``utils``, ``models``, ``dataset``) inside its functions, so the checkout's root must be on
``sys.path`` when they are called.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from advrbd_plugin.backdoorbench.classifiers import attacked_model, maker_for, toolbox_state
from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
from advrbd_plugin.backdoorbench.datasets import PoisonTruth, clean_samples, load_result, test_sets, training_set
from advrbd_plugin.backdoorbench.outputs import (
    DetectionCounts,
    Outcome,
    count_detection,
    summarise,
    write_detection_info,
    write_metrics,
    write_verdicts,
)
from advrbd_plugin.backdoorbench.record import AttackRecord, read_record, record_folder
from advrbd_plugin.backdoorbench.run import TRUST_RECORD_VARIABLE, refuse_missing_cuda
from advrbd_plugin.backdoorbench.script_log import start_log
from advrbd_plugin.backdoorbench.settings import add_arguments, read_settings, takes_option
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json
from advrbd_plugin.settings import Settings

ConfigT = TypeVar("ConfigT", bound=Settings)


@dataclass(frozen=True, eq=False)
class LoadedRecord:
    """Attributes:
    record: what the attack left.
    result: the same as the toolbox's ``load_attack_result`` returns it.
    """

    record: AttackRecord
    result: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Finished:
    """Attributes:
    outcome: what the method returned.
    train_set: the poisoned training set, or ``None`` if the method uses none.
    truth: its ground truth, for the report alone.
    """

    outcome: Outcome
    train_set: ImageSet | None
    truth: PoisonTruth | None


class DefenseScript(Generic[ConfigT]):
    """The methods that every defense of BackdoorBench has; a subclass implements :meth:`run`.

    ``args`` is a namespace as :meth:`add_arguments` makes it.

    Attributes:
        name: of its scripts, its configurations and the folder of its results.
        title: its name in the log.
        config_class: its settings.
        uses_clean_samples: whether it needs clean samples (``--ratio``, ``--index``).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: type[ConfigT]
    uses_clean_samples: ClassVar[bool] = False

    def __init__(self, args: argparse.Namespace) -> None:
        settings = read_settings(vars(args), self.config_class, clean_samples=self.uses_clean_samples)
        self.settings = settings
        self.config: ConfigT = settings.config
        args.__dict__.update(settings.options)
        args.terminal_info = sys.argv
        if args.device is not None:
            refuse_missing_cuda(args.device)
        self.args = args
        self._loaded: LoadedRecord | None = None
        if args.result_file is not None:
            self.set_result(args.result_file)

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Do the method's work.

        A subclass can use ``self.config``, ``self.device``, ``self.work_dir`` (for unfinished work), :meth:`new_model`,
        :meth:`attacked_model` and, if it ``uses_clean_samples``, :meth:`clean_samples`.

        Args:
            train_set: the poisoned training set, without its ground truth; ``None`` unless it ``uses_training_set``.
        """
        raise NotImplementedError

    @property
    def uses_training_set(self) -> bool:
        """Whether the method needs the poisoned training set, which a few attacks do not save."""
        return True

    @property
    def repairs(self) -> bool:
        """Whether the method works on the attacked model, so that ``--model`` cannot name another architecture."""
        return False

    @property
    def record(self) -> AttackRecord:
        """The record that :meth:`set_result` read."""
        return self._need_loaded().record

    @property
    def seed(self) -> int:
        """The settings' seed."""
        return int(self.config.to_mapping()["seed"])

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add BackdoorBench's options and the method's own to ``parser``."""
        default_yaml = f"./config/defense/{cls.name}/config.yaml"
        add_arguments(parser, default_yaml, cls.config_class, clean_samples=cls.uses_clean_samples)

    @classmethod
    def takes_option(cls, option: str) -> bool:
        """Whether the method's scripts take ``option`` (``--epochs``)."""
        return takes_option(option, cls.config_class, clean_samples=cls.uses_clean_samples)

    def set_result(self, result_file: str) -> None:
        """Read ``record/RESULT_FILE`` and choose the folders of the results.

        Raises:
            AdvrBDError: there is no such record, it is damaged or unsafe, its dataset is missing, or ``--dataset`` or
                ``--model`` names another one.
        """
        args = self.args
        folder = record_folder(Path.cwd(), result_file)
        if self._loaded is None or self._loaded.record.folder != folder:
            self._loaded = self._load(folder)
        record = self._loaded.record
        args.result_file = result_file
        args.dataset = record.clean_data
        args.model = args.model or record.model_name
        if self.repairs and args.model != record.model_name:
            raise AdvrBDError(
                f"--model {args.model}: {self.title} works on the attacked model, which is a "
                f"{record.model_name}; leave --model out"
            )
        args.num_classes = record.num_classes
        args.input_height, args.input_width, args.input_channel = args.img_size = record.img_size
        args.save_path = f"record/{result_file}/defense/{self.name}/"
        args.detection_path = f"record/{result_file}/detection/{self.name}_pretrain/"
        args.checkpoint_save = args.checkpoint_save or args.save_path + "checkpoint/"
        args.log = args.log or args.save_path + "log/"

    def set_logger(self) -> None:
        """Log to the console and to a new file in ``args.log``, as the other defenses do."""
        start_log(Path(self.args.log))
        logging.info(pformat(vars(self.args)))
        logging.info("%s: %s", self.title, pformat(self.config))
        if self.settings.unused:
            options = ", ".join(f"--{name}" for name in self.settings.unused)
            logging.warning("%s does not use %s", self.title, options)

    def set_devices(self) -> None:
        """Choose ``args.device``; by default CUDA where there is one.

        Raises:
            AdvrBDError: CUDA is asked for and this PyTorch has none.
        """
        import torch

        wanted = self.args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        refuse_missing_cuda(wanted)
        try:
            self.device = torch.device(wanted)
        except RuntimeError as error:
            raise AdvrBDError(f"--device {wanted} is no device; pass cuda, cuda:1 or cpu") from error
        self.args.device = wanted

    def mitigation(self) -> dict[str, Any]:
        """Make the defended model and write all results into ``record/NAME/defense/METHOD/``.

        Returns:
            ``{"model": ...}`` with the toolbox's model (for normalised input), as the other defenses do.
        """
        finished = self._run()
        from utils.save_load_attack import save_defense_result

        outcome, loaded, folder = finished.outcome, self._need_loaded(), Path(self.args.save_path)
        folder.mkdir(parents=True, exist_ok=True)
        counts = self._write_detection(folder, finished)
        tests = test_sets(loaded.result, loaded.record)
        figures = write_metrics(folder, self.name, outcome, tests, self.device)
        save_defense_result(self.args.model, self.args.num_classes, toolbox_state(outcome.model), self.args.save_path)
        summary = summarise(self.args.result_file, self.args.model, outcome, counts, figures, self.device)
        write_json(folder / "summary.json", summary)
        logging.info("defended %s, undefended %s", figures["defended"], figures["undefended"])
        return {"model": outcome.model.classifier.cpu()}

    def filtering(self) -> DetectionCounts:
        """Find the poisoned samples and write ``detection_info.csv``, as the other detections do.

        Raises:
            AdvrBDError: the method gives no verdicts on samples.
        """
        finished = self._run()
        folder = Path(self.args.detection_path)
        folder.mkdir(parents=True, exist_ok=True)
        counts = self._write_detection(folder, finished)
        if counts is None:
            raise AdvrBDError(f"{self.title} gives no verdicts on samples, so it is no detection")
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
        """The folder of unfinished work, from which a run that was killed resumes; it is made."""
        path = Path(self.args.checkpoint_save)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def new_model(self) -> nn.Module:
        """An untrained ``args.model`` for images in pixel scale [0, 1]."""
        return maker_for(self.record, self.args.model)()

    def attacked_model(self) -> nn.Module:
        """The record's model for images in pixel scale [0, 1], on ``self.device``, in eval mode."""
        return attacked_model(self.record).to(self.device)

    def clean_samples(self) -> ImageSet:
        """The clean training samples that ``--ratio`` draws by the seed or ``--index`` lists.

        Raises:
            AdvrBDError: neither is given, or the file lists samples that do not exist.
        """
        loaded = self._need_loaded()
        return clean_samples(loaded.result, loaded.record, ratio=self.args.ratio, index=self.args.index, seed=self.seed)

    def _load(self, folder: Path) -> LoadedRecord:
        args = self.args
        apply_patches_for_modules()
        if args.local_data:
            use_local_data()
        trust = bool(args.trust_record or os.environ.get(TRUST_RECORD_VARIABLE))
        record = read_record(folder, trust=trust)
        if args.dataset is not None and args.dataset != record.clean_data:
            raise AdvrBDError(
                f"--dataset {args.dataset}: record {record.name} was made on {record.clean_data}; "
                "leave --dataset out or pass the configuration of that dataset"
            )
        if self.uses_training_set:
            record.need_training_set()
        return LoadedRecord(record, load_result(record, args.dataset_path))

    def _need_loaded(self) -> LoadedRecord:
        if self._loaded is None:
            raise AdvrBDError("no record is loaded: pass --result_file NAME, or call set_result first")
        return self._loaded

    def _run(self) -> Finished:
        """Run the method on the poisoned training set alone; its ground truth goes to the report."""
        self.set_devices()
        self.new_model()  # an unknown architecture fails here, before the first stage
        if not self.uses_training_set:
            return Finished(self.run(None), None, None)
        loaded = self._need_loaded()
        train_set, truth = training_set(loaded.result, loaded.record)
        return Finished(self.run(train_set), train_set, truth)

    def _write_detection(self, folder: Path, finished: Finished) -> DetectionCounts | None:
        outcome, train_set, truth = finished.outcome, finished.train_set, finished.truth
        if outcome.verdicts is None or train_set is None or truth is None:
            return None
        counts = count_detection(truth.poisoned, outcome.verdicts.poisoned)
        write_verdicts(folder, train_set, outcome)
        write_detection_info(folder, self.args.result_file, counts, outcome.suspected_classes)
        return counts


def main(method: type[DefenseScript[Any]], action: str) -> None:
    """Run one of the thin scripts: parse the command line, then ``method(args).defense`` or ``.detection``.

    A user's error is one line on stderr and exit status 2.
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
        raise SystemExit(2) from None
