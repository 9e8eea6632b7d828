"""``advrbd export``: a model that ``advrbd defend`` wrote as a file for other programs."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from advrbd_plugin.cli.options import add_network_option, add_telling_options
from advrbd_plugin.cli.telling import tell_result


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="write a model as ONNX or for torch.export",
        description="The file takes floats in [0, 1] of shape (N, C, H, W) in the model's size, and gives logits.",
    )
    parser.add_argument("model", metavar="DIR", help="a folder that `advrbd defend` or `repair` wrote")
    parser.add_argument("file", metavar="FILE", help="NAME.onnx (needs onnx and onnxscript) or NAME.pt2")
    add_network_option(parser)
    add_telling_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load and write."""
    from advrbd_plugin.cli.evaluate import model_folder
    from advrbd_plugin.nn.model_file import load_model

    model = load_model(model_folder(arguments.model), model=arguments.network)
    made = model.export(arguments.file)
    tell_result(arguments, {"file": str(made), "model": asdict(model.description)}, [f"{made}: {model}"])
    return 0
