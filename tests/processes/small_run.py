"""A defense of a small set from end to end, as each of several processes runs it: ``python small_run.py WORK OUT``.

Rank 0 reads the set, into a store below ``WORK``, and the others get it from there.

In float64, so that what differs between one process and several is rounding at the 16th digit, and nothing that a
training of a few steps could grow into another verdict.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.sharing import share_images
from advrbd_plugin.data.store import Picture, fill_store
from advrbd_plugin.defense.candidates import Candidate
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection, LabelEvidence
from advrbd_plugin.defense.evidence import EVIDENCE, gather_evidence
from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.process_group import joined
from advrbd_plugin.processes import current

# Of 16: the last batch of an epoch has 2, too few for each of two processes to take two.
SAMPLES = 66


class InFloat64(nn.Module):
    """A network that calculates in float64 whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.double())


def make_model() -> nn.Module:
    return InFloat64(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6, momentum=None),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(6, affine=False),
            nn.Linear(6, 3),
        )
    )


def make_set() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % 3
    images = torch.randint(0, 200, (SAMPLES, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images += (20 * labels).to(torch.uint8)[:, None, None, None]
    ids = torch.randperm(1000, generator=generator)[:SAMPLES]
    return ImageSet(images, labels, ("a", "b", "c"), ids)


def suspect(trained, samples, scores, config, on_batch=None) -> Detection:
    """Suspects class 1, and every third sample of it, so that all stages run; asks for the features as others do."""
    features, logits = layered_features(trained.model, samples.images, mixed_precision=False, on_batch=on_batch)
    assert len(features) == len(logits) == len(samples) and features.isfinite().all()
    probability = ((samples.labels == 1) & (samples.sample_ids % 3 == 0)).float()
    evidence = [LabelEvidence(label, 22, 2.0, 2.0, 0.3, suspected=label == 1) for label in range(3)]
    # Too little trained to judge labels: what it learned in a few steps shall decide nothing.
    return Detection(probability, features[:, 0].contiguous(), tuple(evidence), trained_enough=False)


def defend(work_dir: str | Path | None, samples: ImageSet | None = None):
    config = AdvrBDConfig(
        epochs=3,
        batch_size=16,
        relearn_epochs=1,
        enhancement_steps=3,
        crop_padding=1,
        patch_size=4,
        num_masks=2,
        mixed_precision=False,
    )
    return AdvrBD(make_model, config, device="cpu", work_dir=work_dir, detector=suspect).fit(samples or make_set())


def evidence(samples: ImageSet) -> Tensor:
    """What a network makes of two clusters of each class in other pictures."""
    torch.manual_seed(0)
    model = make_model().eval()
    logits = predict(model, samples.images, mixed_precision=False)
    logits = logits + 100 * torch.nn.functional.one_hot(samples.labels, 3)  # as if it had learned its set
    candidates = []
    for label in range(3):
        members = (samples.labels == label).nonzero().flatten()
        candidates += [Candidate(label, members[:14], "mixture"), Candidate(label, members[5:], "second_choice")]
    found = gather_evidence(model, samples, logits, candidates, mixed_precision=False)
    return torch.tensor([[each.value(name) for name in EVIDENCE] + [each.size] for each in found]).double()


def in_a_store(folder: Path) -> ImageSet:
    images = make_set()
    each = zip(images.images, images.labels.tolist(), images.sample_ids.tolist(), strict=True)
    return fill_store(folder, (Picture(*picture) for picture in each), images.class_names)


def contents(result) -> dict[str, Tensor]:
    """All that a run found, as tensors."""
    weights = {f"model.{name}": value for name, value in result.model.state_dict().items()}
    first = {f"first.{name}": value for name, value in result.backdoored_model.state_dict().items()}
    verdicts = result.verdicts
    return (
        weights
        | first
        | {
            "poisoned": verdicts.poisoned,
            "score": verdicts.score,
            "uncertain": verdicts.uncertain,
            "suggested_label": verdicts.suggested_label,
            "loss": torch.tensor([row["loss"] for row in result.curves["training"]], dtype=torch.float64),
            "accuracy": torch.tensor([row["accuracy"] for row in result.curves["training"]], dtype=torch.float64),
        }
    )


def main(work_dir: str, out: str) -> None:
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    with joined("cpu") as (processes, _):
        read = in_a_store(Path(work_dir) / "store") if processes.leads else None
        samples = share_images(read, processes)
        found = contents(defend(work_dir, samples)) | {"evidence": evidence(samples)}
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{out}.{current().rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
