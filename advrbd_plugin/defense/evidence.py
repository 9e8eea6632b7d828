"""The evidence about every candidate cluster of a set, each number between 0 (innocent) and 1. (Ours.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import transplant
from advrbd_plugin.defense.candidates import COMPONENTS, Candidate
from advrbd_plugin.defense.operations import Change, operations
from advrbd_plugin.defense.transplant import Recipients, SetStatistics
from advrbd_plugin.nn.early_map import EarlyMap, Moments
from advrbd_plugin.nn.inference import runner_up_classes
from advrbd_plugin.processes import current
from advrbd_plugin.randomness import derive_seed

TRANSPLANTS = ("goes", "goes_best", "leaves", "window", "detail", "colour", "slow", "style", "spectrum", "operation")
EVIDENCE = (*TRANSPLANTS, "marked")
"""What the decision is made from; the fields of :class:`ClusterEvidence` of the same names."""
RESIDUAL_EVIDENCE = ("goes", "goes_best", "leaves")
"""Those that are counted when the residual is put into other pictures."""
TAKEN = {
    "slow": "given their brightness from place to place",
    "style": "given their contrast and texture",
    "colour": "given their colours",
}
"""Changes that are taken from a cluster, and what they are called beside the known operations."""
MIXTURE_EVIDENCE = ("window", "detail", "colour", "slow", "style", "spectrum", "operation")
"""Those that components of mixtures alone are put to."""

_RECIPIENTS = 200  # in all, a class at least so many:
_LEAST_RECIPIENTS = 4
_FRESH_RECIPIENTS = 50  # of the best class
_SCATTERED = 8  # patterns by chance, each put into every eighth recipient
_SENT_HOME = 200  # pictures of a cluster, at the most, from which what they have in common is taken out
_USUAL = 500  # pictures of the set that the usual style is taken from
_DONORS = 16
_WINDOW = 4  # a window's side is the image's divided by this
_SAME_SHARE = 0.5  # of a component, from which on it is no reference for a cluster
_REFERENCES = ("mixture", "unmarked")  # sources of clusters that others are compared with
_REFERENCE = 300  # pictures of a label that its clusters are compared with


@dataclass(frozen=True)
class ClusterEvidence:
    """What the model makes of a cluster's content in other pictures (:mod:`.transplant`).

    Attributes:
        label: the cluster's.
        size: pictures in it, copies counted once.
        source: see :class:`Candidate`.
        goes: share of the recipients that the residual takes to the label.
        goes_best: the same of the class of recipients where it is largest, by recipients that did not choose the class.
        leaves: share that leave their class under the residual, of those that stay under patterns by chance.
        window: share that go to the label under a donor's own window.
        detail: share that go to the label with a donor's finest detail, less the same with donors of the whole label.
        colour: share that go to the label with the cluster's colour gains, times :func:`.transplant.goes_home`.
        slow: share that go to the label under the slow residual, times :func:`.transplant.goes_home` without it.
        style: share that go to the label with the cluster's style, times the same.
        spectrum: share that go to the label with the cluster's gains of frequencies.
        operation: share that go to the label under one of the :mod:`.operations` or of ``TAKEN``, beyond its share of
            all that leave their classes, times :func:`.transplant.goes_home` when it is undone, times how well the
            classes that they go home to agree with what the network held them for while it learned; of the one with
            most.
        marked: for pictures with the same mark, share that the network put elsewhere while it learned, less the same
            of the label's other pictures; ``None`` for other clusters, and where nothing was recorded.
        best_class: the class of ``goes_best``.
        predicted_share: share of the cluster that the model gives the label.
        operation_name: of ``operation``; empty where it is 0.
    """

    label: int
    size: int
    source: str
    goes: float
    goes_best: float
    leaves: float
    window: float = 0.0
    detail: float = 0.0
    colour: float = 0.0
    slow: float = 0.0
    style: float = 0.0
    spectrum: float = 0.0
    operation: float = 0.0
    marked: float | None = None
    best_class: int = -1
    predicted_share: float = 1.0
    operation_name: str = ""

    def value(self, kind: str) -> float:
        """The evidence of a kind, 0 where it was not asked for."""
        return float(getattr(self, kind) or 0.0)

    def told_as(self, kind: str) -> str:
        """The kind by which something is told: that of the change where the operation was taken from the cluster."""
        taken = next((each for each, name in TAKEN.items() if name == self.operation_name), kind)
        return taken if kind == "operation" else kind


def gather_evidence(
    model: nn.Module,
    samples: ImageSet,
    logits: Tensor,
    candidates: list[Candidate],
    *,
    mean_probabilities: Tensor | None = None,
    statistics: SetStatistics | None = None,
    seed: int = 0,
    mixed_precision: bool = True,
    on_candidate: Callable[[], None] | None = None,
) -> list[ClusterEvidence]:
    """The evidence of each candidate, in their order.

    The residual is put to every candidate; the others, which cost more, to components of mixtures alone. Several
    processes share the classes out.

    Args:
        model: takes float pictures in [0, 1], in eval mode.
        samples: the set that the candidates are of.
        logits: (N, num_classes) float32, the model's own on the set.
        candidates: from :func:`find_candidates`.
        mean_probabilities: (N, num_classes) float32, what the network said while it learned; without it nothing is
            known of marks and operations.
        statistics: of the set, if they are at hand.
        seed: recipients and donors are drawn by it.
        on_candidate: told when one is done.
    """
    statistics = statistics or SetStatistics.of(samples.images)
    questions = Questions.of(
        model,
        samples,
        logits,
        statistics,
        mean_probabilities=mean_probabilities,
        seed=seed,
        mixed_precision=mixed_precision,
    )
    return questions.put_to(candidates, on_candidate=on_candidate)


@dataclass(frozen=True, eq=False)
class Own:
    """Some of a cluster's pictures, which the model gives the label.

    Attributes:
        pictures: (M, C, H, W) float32 in [0, 1].
        runner_up: (M,) int64, the other class that the network held each for most while it learned; ``None`` where that
            was not recorded.
    """

    pictures: Tensor
    runner_up: Tensor | None


@dataclass(frozen=True, eq=False)
class Questions:
    """A model, the ways to ask it, and what pictures of the set are like for it.

    Attributes:
        model: takes float pictures in [0, 1], in eval mode.
        samples: the set.
        predicted: (N,) bool, whether the model gives a sample its label.
        statistics: of the set.
        recipients: pictures of all classes.
        fresh: class -> recipients of that class alone, which did not choose it.
        predict: what the model says.
        early: its early feature map.
        usual: the map's moments on pictures of the set; ``None`` where the model has no such map.
        mean_probabilities: (N, num_classes) float32, what the network said while it learned, where that was recorded.
        runner_up: (N,) int64, the class, other than its label, that it said of each sample most.
        operated: name of an operation -> (R,) int64, what the model makes of the recipients under it; empty where
            ``runner_up`` is missing, without which it says nothing.
        seed: donors are drawn by it.
        mixed_precision: whether the model answers in bfloat16, where that pays.
    """

    model: nn.Module
    samples: ImageSet
    predicted: Tensor
    statistics: SetStatistics
    recipients: Recipients
    fresh: dict[int, Recipients]
    predict: transplant.Predict
    early: EarlyMap
    usual: Moments | None
    mean_probabilities: Tensor | None
    runner_up: Tensor | None
    operated: dict[str, Tensor]
    seed: int
    mixed_precision: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: ImageSet,
        logits: Tensor,
        statistics: SetStatistics,
        *,
        mean_probabilities: Tensor | None = None,
        seed: int,
        mixed_precision: bool = True,
    ) -> Questions:
        """As for :func:`gather_evidence`."""
        images, labels = samples.images, samples.labels
        current().equalise(model)
        predicted = logits.argmax(dim=1) == labels
        most = max(_LEAST_RECIPIENTS, _RECIPIENTS // max(1, samples.num_classes))
        recipients = transplant.draw_recipients(images, labels, predicted, seed=seed, most=most)
        generator = torch.Generator().manual_seed(derive_seed(seed, "usual style"))
        some = as_floats(images[_some(torch.arange(len(images)), _USUAL, generator)])
        early = EarlyMap(model, some[:1], mixed_precision=mixed_precision)
        predict = transplant.classifier(model, mixed_precision=mixed_precision)
        operated, runner_up = dict[str, Tensor](), None
        if mean_probabilities is not None:
            operated = {each.name: predict(each.do(recipients.pictures)) for each in operations(images[0])}
            runner_up = runner_up_classes(mean_probabilities, labels)
        return cls(
            model,
            samples,
            predicted,
            statistics,
            recipients,
            _of_each_class(images, labels, predicted, seed),
            predict,
            early,
            early.moments(some) if early.exists else None,
            mean_probabilities,
            runner_up,
            operated,
            seed,
            mixed_precision,
        )

    def put_to(
        self,
        candidates: list[Candidate],
        *,
        on_candidate: Callable[[], None] | None = None,
    ) -> list[ClusterEvidence]:
        """The evidence of each candidate, as :func:`gather_evidence` gives it."""
        references: dict[int, float] = {}
        found: dict[int, ClusterEvidence] = {}
        processes = current()
        for number, candidate in enumerate(candidates):
            if on_candidate is not None:
                on_candidate()
            if candidate.label % processes.count == processes.rank:
                found[number] = self._put_to_one(number, candidate, references)
        if processes.count == 1:
            return list(found.values())
        parts = processes.gather({number: asdict(each) for number, each in found.items()})
        everyones = {int(number): ClusterEvidence(**each) for part in parts for number, each in part.items()}
        return [everyones[number] for number in range(len(candidates))]

    def _put_to_one(self, number: int, candidate: Candidate, references: dict[int, float]) -> ClusterEvidence:
        """``references``: label -> what :func:`.transplant.by_detail` says of all of it; filled where it is missing."""
        members = candidate.members[self.statistics.first[candidate.members]]
        pictures = as_floats(self.samples.images[members])
        found = self._by_residual(number, pictures, candidate.label)
        if candidate.source in COMPONENTS and len(members):
            found |= self._by_the_others(number, candidate, members, pictures, references)
        if candidate.source == "mark" and self.mean_probabilities is not None:
            elsewhere = _put_elsewhere(self.mean_probabilities, self.samples.labels, candidate)
            found["marked"] = max(0.0, elsewhere)
        share = float(self.predicted[candidate.members].float().mean())
        return ClusterEvidence(candidate.label, len(members), candidate.source, predicted_share=share, **found)

    def _by_residual(self, number: int, pictures: Tensor, label: int) -> dict[str, Any]:
        """What is read from the residual of a cluster's pictures, and the class of ``goes_best``."""
        others, pattern = self.recipients.outside(label), transplant.residual(pictures, self.statistics)
        seed = derive_seed(self.seed, "scattered", number)
        carried = _carried(self.predict, pattern, others, label, seed=seed)
        goes_best, again = carried.goes_best, self.fresh.get(carried.best_class)
        if again is not None and len(again.labels):
            goes_best = transplant.by_residual(self.predict, pattern, again, label).goes
        best_class = carried.best_class
        return {"goes": carried.goes, "goes_best": goes_best, "leaves": carried.leaves, "best_class": best_class}

    def _by_the_others(
        self, number: int, candidate: Candidate, members: Tensor, pictures: Tensor, references: dict[int, float]
    ) -> dict[str, Any]:
        """What components of mixtures alone are asked for, and the name of the operation."""
        images, labels, label = self.samples.images, self.samples.labels, candidate.label
        others = self.recipients.outside(label)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "donors", number))
        if label not in references:
            of_label = _some((labels == label).nonzero().flatten(), _REFERENCE, generator)
            references[label] = transplant.by_detail(self.predict, as_floats(images[of_label]), others, label).goes
        order = torch.randperm(len(pictures), generator=generator)
        rest = labels == label
        rest[candidate.members] = False
        own = self._own(members[order[:_SENT_HOME]], label)
        found = _of_mixture(self, pictures[order], own, as_floats(images[rest]), others, label, generator)
        return found | {"detail": min(1.0, max(0.0, found["detail"] - references[label]))}

    def _own(self, members: Tensor, label: int) -> Own:
        pictures = as_floats(self.samples.images[members])
        kept = self.predict(pictures) == label
        return Own(pictures[kept], None if self.runner_up is None else self.runner_up[members[kept]])


def _carried(
    predict: transplant.Predict, pattern: Tensor, recipients: Recipients, label: int, *, seed: int
) -> transplant.Carried:
    """What a residual does to recipients, beyond what patterns by chance do to their classes."""
    carried = transplant.by_residual(predict, pattern, recipients, label)
    if not carried.leaves:
        return carried
    chance = transplant.scattered(pattern, _SCATTERED, generator=torch.Generator().manual_seed(seed))
    chance = chance[torch.arange(len(recipients.labels)) % _SCATTERED]
    return transplant.beyond_chance(carried, transplant.by_residual(predict, chance, recipients, label))


def _put_elsewhere(mean_probabilities: Tensor, labels: Tensor, candidate: Candidate) -> float:
    """Share of a cluster that the network gave another label while it learned, less that of its label's rest."""
    elsewhere = (mean_probabilities.argmax(dim=1) != labels).double()
    rest = labels == candidate.label
    rest[candidate.members] = False
    return _share_of_few(elsewhere[candidate.members]) - _share_of_few(elsewhere[rest])


def _share_of_few(flags: Tensor) -> float:
    """Share of (M,) float64 that are 1, as with one more of either kind (Agresti and Caffo, 2000): M may be small."""
    return float((flags.sum() + 1) / (len(flags) + 2))


def less_reference(evidence: list[ClusterEvidence], candidates: list[Candidate]) -> list[ClusterEvidence]:
    """The evidence less that of the other part of the same label, a component or what has no mark, that has least.

    Where pictures are aligned, a label's innocent content acts in other pictures, too: the strokes of a digit make
    another digit of it. Then all components of a label have evidence, where a trigger's alone has it. A cluster that
    is nearly all of its label has nothing to be compared with, and so no evidence.
    """
    corrected = []
    for own, candidate in zip(evidence, candidates, strict=True):
        rest = [
            other
            for other, others in zip(evidence, candidates, strict=True)
            if others.label == candidate.label and others.source in _REFERENCES and _is_another(candidate, others)
        ]
        changes: dict[str, Any] = {
            kind: max(0.0, own.value(kind) - min((other.value(kind) for other in rest), default=1.0))
            for kind in TRANSPLANTS
        }
        corrected.append(replace(own, **changes))
    return corrected


def _is_another(candidate: Candidate, other: Candidate) -> bool:
    """Whether less than half of ``other`` is in the candidate."""
    return float(torch.isin(other.members, candidate.members).double().mean()) < _SAME_SHARE


def _of_each_class(images: Tensor, labels: Tensor, predicted: Tensor, seed: int) -> dict[int, Recipients]:
    """Class -> recipients of that class alone, which did not choose it."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "fresh recipients"))
    found = {}
    for label in labels.unique().tolist():
        members = _some(((labels == label) & predicted).nonzero().flatten(), _FRESH_RECIPIENTS, generator)
        found[label] = Recipients(as_floats(images[members]), labels[members])
    return found


def as_floats(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]."""
    return images.float() / 255


def _of_mixture(
    questions: Questions,
    donors: Tensor,
    own: Own,
    rest: Tensor,
    recipients: Recipients,
    label: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    """The evidence of components of mixtures, and the name of the operation.

    Args:
        donors: the cluster's pictures.
        own: some of them, which the model gives the label.
        rest: those of its label's rest.
    """
    predict, num_others = questions.predict, len(recipients.labels.unique())
    mixed = torch.randperm(len(recipients.labels), generator=generator)
    shuffled = Recipients(recipients.pictures[mixed], recipients.labels[mixed])
    evidence: dict[str, Any] = {
        "window": _by_own_window(questions, donors[:_DONORS], shuffled, label),
        "detail": transplant.by_detail(predict, donors, recipients, label).goes,
        "spectrum": 0.0,
    }
    if len(rest):
        louder = transplant.band_amplitudes(donors).mean(dim=0) - transplant.band_amplitudes(rest).mean(dim=0)
        evidence["spectrum"] = transplant.by_spectrum_gains(predict, louder.exp(), recipients, label).goes
    best = (0.0, "")
    for kind, changed in _taken_from_the_cluster(questions, donors, rest, recipients, label).items():
        evidence[kind], borne_out = _and_home(changed, own, label, num_others)
        if borne_out > best[0]:
            best = (borne_out, TAKEN[kind])
    evidence["operation"], evidence["operation_name"] = _by_operations(questions, own, recipients, label, best)
    return evidence


def _by_own_window(questions: Questions, donors: Tensor, recipients: Recipients, label: int) -> float:
    side, precision = window_side(donors), questions.mixed_precision
    return transplant.by_own_window(questions.model, donors, recipients, label, side=side, mixed_precision=precision)


def window_side(pictures: Tensor) -> int:
    """Of the windows that are pasted, in pixels, for (N, C, H, W) pictures."""
    return max(2, min(pictures.shape[-2:]) // _WINDOW)


@dataclass(frozen=True, eq=False)
class _Changed:
    """Attributes:
    carried: what the model makes of recipients with a change.
    predict_without: what it makes of pictures that lose it first.
    """

    carried: transplant.Carried
    predict_without: transplant.Predict


def _taken_from_the_cluster(
    questions: Questions, donors: Tensor, rest: Tensor, recipients: Recipients, label: int
) -> dict[str, _Changed]:
    """Kind -> the change that the cluster's pictures show in that way; ``rest`` are those of their label's rest."""
    predict, early = questions.predict, questions.early
    pattern = transplant.slow_residual(donors, questions.statistics)
    by_slow = transplant.by_residual(predict, pattern, recipients, label)
    found = {"slow": _Changed(by_slow, lambda some: predict((some - pattern).clamp(0, 1)))}
    if questions.usual is not None:
        style = early.moments(donors[:_SENT_HOME])
        by_style = transplant.by_style(early, style, questions.usual, recipients, label)
        back = style.turned_into(questions.usual)
        found["style"] = _Changed(by_style, lambda some: early.predict(some, back))
    if len(rest):
        gains = donors.mean((0, 2, 3)) / rest.mean((0, 2, 3)).clamp_min(1e-3)
        by_colour = transplant.by_colour_gains(predict, gains, recipients, label)
        found["colour"] = _Changed(by_colour, lambda some: predict(transplant.without_gains(some, gains)))
    return found


def _by_operations(
    questions: Questions, own: Own, recipients: Recipients, label: int, best: tuple[float, str]
) -> tuple[float, str]:
    """The evidence of the operation that has most, and its name: ``best``, or one of the known ones."""
    others, num_others = questions.recipients.labels != label, len(recipients.labels.unique())
    if not questions.operated:
        return best
    for each in operations(questions.samples.images[0]):
        carried = transplant.count_carried(questions.operated[each.name][others], recipients, label)
        if _beyond_its_share(carried, num_others) > best[0]:  # what goes home is a share of it

            def predict_without(some: Tensor, undo: Change = each.undo) -> Tensor:
                return questions.predict(undo(some))

            borne_out = _and_home(_Changed(carried, predict_without), own, label, num_others)[1]
            if borne_out > best[0]:
                best = (borne_out, each.name)
    return best


def _beyond_its_share(carried: transplant.Carried, num_others: int) -> float:
    """The share that goes to the label, less the label's share of all that leave their classes.

    A change that spoils the pictures sends them everywhere. Of two classes, all that leave one go to the other: there
    this says nothing.
    """
    return max(0.0, carried.goes - carried.leaves / max(1, num_others))


def _and_home(changed: _Changed, own: Own, label: int, num_others: int) -> tuple[float, float]:
    """The share that goes to the label times :func:`.transplant.goes_home`, and the same where learning bears it out.

    The second counts what goes to the label beyond its share, times the agreement of the classes that the cluster's
    pictures go home to with those that the network held them for while it learned. Innocent pictures of a look of their
    own (a soft lens, a sky) leave their label without it, too, but go astray. Poison goes where it came from.
    """
    if not changed.carried.goes or not len(own.pictures):
        return 0.0, 0.0
    answers = changed.predict_without(own.pictures)
    gone, home = answers != label, transplant.goes_home(answers, label, num_others=num_others)
    goes_home = changed.carried.goes * home
    if own.runner_up is None:
        return goes_home, 0.0
    agreement = max(0.0, transplant.agreement(answers[gone], own.runner_up[gone]))
    return goes_home, _beyond_its_share(changed.carried, num_others) * home * agreement


def _some(positions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return positions[torch.randperm(len(positions), generator=generator)[:count]]
