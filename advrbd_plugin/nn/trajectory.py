"""What a network says of each sample on average while it is still learning.

A mislabelled sample is learned late: for most of a training its own label has a low probability and its true class a
high one ("training dynamics": Swayamdipta et al., arXiv 2009.10795).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from advrbd_plugin.processes import current

# Above this many probabilities (1 GiB) nothing is recorded.
MAX_RECORDED = 2**28
_STORED_NAME = "trajectory"


class Trajectory:
    """The mean of each sample's probabilities over the epochs of one training, all but the first third of them.

    A probability is that of the step that trained on the sample: of its augmented picture, in training mode, before the
    step changed the weights. :func:`advrbd_plugin.nn.training.train` fills it, on the device of the network.

    Args:
        samples, num_classes: the shape of the record.
        epochs: of the training.
    """

    def __init__(self, samples: int, num_classes: int, epochs: int) -> None:
        self._shape, self._epochs, self._first_epoch = (samples, num_classes), epochs, epochs // 3
        self._sum: Tensor | None = None  # (N, num_classes) float32
        self._mean: Tensor | None = None

    @classmethod
    def recordable(cls, samples: int, num_classes: int, epochs: int) -> Trajectory | None:
        """A new record, or ``None`` where it would hold more than :data:`MAX_RECORDED` values."""
        return cls(samples, num_classes, epochs) if samples * num_classes <= MAX_RECORDED else None

    @property
    def mean(self) -> Tensor:
        """(N, num_classes) float32 on the CPU, rows that sum to 1. Raises ValueError before the training's end."""
        if self._mean is None:
            raise ValueError("the training has not ended, so there is no mean yet")
        return self._mean

    def add(self, epoch: int, positions: Tensor, logits: Tensor) -> None:
        """Take note of one batch.

        Args:
            epoch: from 0.
            positions: (B,) int64, where in the training set the batch comes from, on the device of ``logits``.
            logits: (B, num_classes) float.
        """
        if epoch < self._first_epoch:
            return
        probabilities = logits.detach().float().softmax(dim=1)
        if self._sum is None:
            self._sum = probabilities.new_zeros(self._shape)
        self._sum.index_add_(0, positions, probabilities)

    def merge(self) -> None:
        """Bring together what several processes took note of in an epoch: rank 0 has it all from here on."""
        if self._sum is not None:
            current().sum_in_rank_0(self._sum)

    def finish(self) -> None:
        """Take the mean; the training has ended."""
        whole = self._sum
        assert whole is not None  # there is at least one epoch
        mean = current().receive_tensors(lambda: {"mean": whole / (self._epochs - self._first_epoch)})
        self._mean, self._sum = mean["mean"].cpu(), None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: nothing before the first epoch that counts."""
        return {} if self._sum is None else {_STORED_NAME: self._sum.cpu()}

    def restore(self, epochs_done: int, tensors: Mapping[str, Tensor], device: torch.device) -> bool:
        """Go on from what :meth:`state` gave after ``epochs_done`` epochs.

        Returns:
            Whether ``tensors`` holds it; a training that went on without a record holds none.
        """
        self._sum = None
        if epochs_done <= self._first_epoch:
            return True
        if not self._fits(tensors):
            return False
        self._sum = tensors[_STORED_NAME].to(device)
        if not current().leads:  # rank 0 goes on with it, the others add what they see
            self._sum.zero_()
        return True

    def to_stored(self) -> dict[str, Tensor]:
        """The record of a finished training, to be stored."""
        return {_STORED_NAME: self.mean}

    def from_stored(self, tensors: Mapping[str, Tensor]) -> bool:
        """Take what :meth:`to_stored` gave, and say whether it is that of such a training."""
        if self._fits(tensors):
            self._mean = tensors[_STORED_NAME]
        return self._mean is not None

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        found = tensors.get(_STORED_NAME)
        return found is not None and tuple(found.shape) == self._shape and found.dtype == torch.float32
