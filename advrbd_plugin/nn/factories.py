"""From what a user hands over, a network or a function that makes one, to a function that makes fresh networks."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.nn.inference import as_input, check_finite, check_shape
from advrbd_plugin.plain import brief, one_reason

_ADVICE = 'give a function that makes one, such as lambda: make_model("resnet18", num_classes=10)'


def network_factory(model: nn.Module | Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A function that makes a freshly initialised network at each call.

    Args:
        model: such a function (a class of networks that needs no arguments is one), or a network. Of a network the
            layout is taken and not the weights, see :func:`fresh_copy`.

    Returns:
        The function. Its networks give logits where the user's give a dictionary or a tuple, see :func:`logits_of`.

    Raises:
        AdvrBDError: ``model`` is neither; and, when the function is called, if it fails, gives something else, or gives
            weights that an earlier network has too.
    """
    if isinstance(model, NetworkFactory):
        return model
    if isinstance(model, nn.Module):
        fresh_copy(model)  # what cannot be made anew is told now
        template = model
        return NetworkFactory(lambda: fresh_copy(template))
    if not callable(model):
        raise AdvrBDError(f"the model must be a network or a function that makes one, got {brief(model)}: {_ADVICE}")
    return NetworkFactory(model)


class NetworkFactory:
    """Calls a user's function and checks what it gives."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._known: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def __call__(self) -> nn.Module:
        _refuse_missing_arguments(self._make)
        network = self._make()
        if not isinstance(network, nn.Module):
            raise AdvrBDError(f"the function that makes the network gave {brief(network)}, not a torch.nn.Module")
        parameters = list(network.parameters())
        if any(self._known.get(id(each)) is each for each in parameters):
            raise AdvrBDError(
                "the function that makes the network gave the same weights twice; it must make a new network each time "
                "(a network itself may be given too)"
            )
        for each in parameters:
            self._known[id(each)] = each
        if _give_logits not in network._forward_hooks.values():
            network.register_forward_hook(_give_logits)
        return network


def fresh_copy(network: nn.Module) -> nn.Module:
    """A copy of a network with new weights, drawn by each layer's own ``reset_parameters``.

    The weights of ``network`` are not used: they may hold the very backdoor that is looked for. Buffers that
    ``reset_parameters`` leaves alone, such as a mean to subtract, are kept.

    Raises:
        AdvrBDError: a weight is drawn by no ``reset_parameters``, is frozen, or the network cannot be copied.
    """
    kind = type(network).__name__
    frozen = next((name for name, each in network.named_parameters() if not each.requires_grad), None)
    if frozen is not None:
        raise AdvrBDError(f"this {kind} cannot be made anew, since {frozen} is frozen: {_ADVICE}")
    try:
        fresh = copy.deepcopy(network)
    except Exception as error:  # a module may hold anything
        if is_out_of_memory(error):
            raise out_of_memory("copying the network") from error
        raise AdvrBDError(f"this {kind} cannot be copied ({one_reason(error)}): {_ADVICE}") from error
    fresh.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(torch.nan)  # what is still NaN below was drawn by nobody
        for module in reversed(list(fresh.modules())):  # a parent's own choice comes after its layers'
            _reset(module)
    for name, parameter in fresh.named_parameters():
        if parameter.isnan().any():
            raise AdvrBDError(f"this {kind} cannot be made anew, since no reset_parameters draws {name}: {_ADVICE}")
    return fresh


def _reset(module: nn.Module) -> None:
    # MultiheadAttention and Transformer call theirs so.
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        try:
            reset()
        except Exception as error:
            kind = type(module).__name__
            raise AdvrBDError(f"reset_parameters of {kind} fails ({one_reason(error)}): {_ADVICE}") from error


def _refuse_missing_arguments(make: Callable[[], nn.Module]) -> None:
    """Where a function's signature can be told, it must need no arguments."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in plain]
    if needed:
        name = getattr(make, "__name__", type(make).__name__)
        raise AdvrBDError(
            f"{name} needs the argument {needed[0]}, but the function that makes the network is called without any: "
            f"write lambda: {name}(...)"
        )


def logits_of(output: Any) -> Tensor:
    """The logits in what a network gives: a tensor, or the ``logits`` of a dictionary, named tuple or object.

    Without ``logits`` the first tensor counts that has a row for each picture; a loss of no dimension does not.

    Raises:
        AdvrBDError: there is no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        if isinstance(value, Tensor) and value.ndim >= 2:
            return value
    raise AdvrBDError(
        f"the network gives {brief(output)}; it must give logits of shape (N, num_classes), or a dictionary or named "
        "tuple with logits"
    )


def _give_logits(_network: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
    """A forward hook, so that the class of the network and the names of its weights stay as they are."""
    return None if isinstance(output, Tensor) else logits_of(output)


def check_network(make_model: Callable[[], nn.Module], images: ImageSet, *, needs_features: bool = False) -> None:
    """Show one picture to a new network, so that what does not fit is told before any training.

    Args:
        make_model: as :func:`network_factory` returns it.
        images: what it will be trained on.
        needs_features: whether its last linear layer will be asked for its input.

    Raises:
        AdvrBDError: the network has no weights (or no linear layer, if it needs one), cannot take such pictures, or
            does not give a logit for each class, or one that is no number.
    """
    with torch.random.fork_rng(devices=[]):
        network = make_model().cpu()
    kind = type(network).__name__
    if next(network.parameters(), None) is None:
        raise AdvrBDError(f"the network ({kind}) has no weights that could be trained")
    if needs_features and not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise AdvrBDError(f"the network ({kind}) has no linear layer, so there are no features to compare")
    shape = "x".join(str(side) for side in images.images.shape[1:])
    try:
        with torch.no_grad():  # in this process alone, whatever others share its work
            logits = network.eval()(as_input(images.images[:1], torch.device("cpu")))
    except AdvrBDError:
        raise
    except Exception as error:  # the user's own code
        if is_out_of_memory(error):
            raise
        raise AdvrBDError(
            f"the network ({kind}) cannot take pictures of {shape} (channels x height x width), the size of this set: "
            f"{one_reason(error)}"
        ) from error
    check_shape(logits, images.num_classes, kind)
    check_finite(logits)
