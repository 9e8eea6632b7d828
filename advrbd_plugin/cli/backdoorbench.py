"""The commands that meet BackdoorBench: register, unregister, backdoorbench install|run|data.

Only argparse and the standard library are imported until a command is carried out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

from advrbd_plugin.cli.options import add_telling_options
from advrbd_plugin.cli.telling import tell_result


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to a parser's subparsers. Each sets ``run``: a function from the namespace to an exit status."""
    _add_registration(subparsers)
    _add_toolbox(subparsers)


def _add_registration(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    register = subparsers.add_parser(
        "register",
        help="add this package's defenses and attacks to a BackdoorBench checkout",
        description="Add the scripts and configurations of our defenses, detections and attacks to a checkout.",
    )
    unregister = subparsers.add_parser("unregister", help="remove exactly these files again")
    for parser, run in ((register, _register), (unregister, _unregister)):
        parser.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the checkout (default: as found)")
        parser.add_argument("--any-version", action="store_true", help="accept a checkout that is not v2.2")
        add_telling_options(parser)
        parser.set_defaults(run=run)


def _add_toolbox(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    toolbox = subparsers.add_parser(
        "backdoorbench", help="get BackdoorBench, and run its scripts on today's PyTorch", description=__doc__
    )
    commands = toolbox.add_subparsers(dest="backdoorbench_command", required=True, metavar="COMMAND")

    install = commands.add_parser("install", help="clone BackdoorBench v2.2 into the user cache")
    install.add_argument("--source", metavar="URL_OR_PATH", help="another repository to clone from")
    install.add_argument("--into", metavar="FOLDER", type=Path, help="another folder than the user cache")
    add_telling_options(install)
    install.set_defaults(run=_install)

    run = commands.add_parser(
        "run",
        help="run a script of the checkout, unchanged, with the patches that today's libraries need",
        epilog="example: advrbd backdoorbench run defense/clp.py --result_file badnet --device cpu",
    )
    add_checkout_options(run)
    run.add_argument(
        "--in-script-folder",
        action="store_true",
        help="run in the script's own folder, as the readmes of resource/ssba and resource/label-consistent say",
    )
    run.add_argument("--report", metavar="FILE", type=Path, help="write time, peak memory and patches there as JSON")
    add_telling_options(run)
    run.add_argument("script", metavar="SCRIPT", help="for example attack/badnet.py or defense/ft.py")
    run.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="what the script is given")
    run.set_defaults(run=_run)

    data = commands.add_parser("data", help="make a small CIFAR-10, in torchvision's layout, from class folders")
    data.add_argument("images", metavar="IMAGES", type=Path, help="a folder that holds train.zip and test.zip")
    data.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="for example CHECKOUT/data/cifar10")
    data.add_argument("--train", metavar="N", type=int, default=2000, help="training images (default 2000)")
    data.add_argument("--test", metavar="N", type=int, default=500, help="test images (default 500)")
    data.add_argument("--seed", type=int, default=0, help="which images are drawn (default 0)")
    data.add_argument("--overwrite", action="store_true", help="replace the CIFAR-10 that is in --out")
    add_telling_options(data)
    data.set_defaults(run=_data)

    pushed = commands.add_parser(
        "label-consistent",
        help="make the images that attack/lc.py needs, with a clean model of attack/prototype.py",
        epilog="example: advrbd backdoorbench label-consistent --result_file prototype",
    )
    add_checkout_options(pushed)
    pushed.add_argument("--result_file", metavar="NAME", required=True, help="the record of attack/prototype.py")
    pushed.add_argument("--epsilon", type=float, default=8, help="largest change of a pixel, of 255 (default 8)")
    pushed.add_argument("--step_size", type=float, default=1.5, help="change in one step, of 255 (default 1.5)")
    pushed.add_argument("--steps", type=int, default=100, help="steps of PGD (default 100)")
    add_telling_options(pushed)
    pushed.set_defaults(run=_label_consistent)


def add_checkout_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that works on a checkout."""
    parser.add_argument("--backdoorbench", metavar="PATH", type=Path, help="the checkout (see `backdoorbench install`)")
    parser.add_argument("--any-version", action="store_true", help="accept a checkout that is not v2.2")
    parser.add_argument(
        "--trust-record",
        action="store_true",
        help="unpickle whatever the record holds; it can run any code that its maker put there",
    )
    parser.add_argument(
        "--local-data", action="store_true", help="read data/ without download or checksum (a subset, say)"
    )


def _register(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.registration import register

    checkout = find_checkout(arguments.path, any_version=arguments.any_version)
    written, left = register(checkout)
    content = {"checkout": str(checkout), "written": list(written), "left": list(left)}
    tell_result(arguments, content, _registered(checkout, written, left))
    return 0


def _registered(checkout: Path, written: Sequence[str], left: Sequence[str]) -> Iterator[str]:
    for name in left:
        yield _was_changed(name)
    if not written:
        yield f"all files are registered in {checkout} already: nothing to do"
        return
    yield f"written into {checkout}:"
    for name in written:
        yield f"  {name}"
    yield "now, in that folder: python defense/advrbd.py --result_file NAME"


def _was_changed(name: str) -> str:
    return f"left {name}: it was changed after `advrbd register` wrote it"


def _unregister(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.registration import unregister

    checkout = find_checkout(arguments.path, any_version=arguments.any_version)
    removed, left = unregister(checkout)
    lines = [*(f"removed {name}" for name in removed), *map(_was_changed, left)]
    lines = lines or [f"nothing is registered in {checkout}: nothing to do"]
    tell_result(arguments, {"checkout": str(checkout), "removed": list(removed), "left": list(left)}, lines)
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.checkout import COMMIT, VERSION, install

    checkout, absent = install(arguments.source, arguments.into)
    lines = [f"BackdoorBench {VERSION} (commit {COMMIT[:7]}, CC BY-NC 4.0) is at {checkout}"]
    if absent:
        lines.append(f"left out, since the source lacks their contents: {', '.join(absent)}")
    content = {"checkout": str(checkout), "version": VERSION, "commit": COMMIT, "left_out": list(absent)}
    tell_result(arguments, content, lines)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.run import RunOptions, run_script

    checkout = find_checkout(arguments.backdoorbench, any_version=arguments.any_version)
    report = Path(os.path.abspath(arguments.report)) if arguments.report else None
    options = RunOptions(
        trust_record=arguments.trust_record,
        local_data=arguments.local_data,
        in_script_folder=arguments.in_script_folder,
        report=report,
    )
    with ExitStack() as stack:  # what the script itself prints is not the command's result
        if arguments.quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))  # an error is told after this block
        elif arguments.json:
            stack.enter_context(redirect_stdout(sys.stderr))
        figures = run_script(checkout, arguments.script, arguments.arguments, options)
    tell_result(arguments, {"script": arguments.script, **figures}, ())
    return 0


def _label_consistent(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.label_consistent import write_images

    checkout = find_checkout(arguments.backdoorbench, any_version=arguments.any_version)
    path, dataset = write_images(
        checkout,
        arguments.result_file,
        epsilon=arguments.epsilon / 255,
        step_size=arguments.step_size / 255,
        steps=arguments.steps,
        local_data=arguments.local_data,
        trust_record=arguments.trust_record,
    )
    now = (
        f"advrbd backdoorbench run attack/lc.py --dataset {dataset} --attack_train_replace_imgs_path "
        f"./{path.relative_to(checkout).as_posix()}"
    )
    content = {"images": str(path), "dataset": dataset, "next": now}
    tell_result(arguments, content, (f"the images are at {path}; now:", now))
    return 0


def _data(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.backdoorbench.small_cifar10 import write_cifar10

    write_cifar10(
        arguments.images,
        arguments.out,
        train=arguments.train,
        test=arguments.test,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )
    content = {"out": str(arguments.out), "train": arguments.train, "test": arguments.test}
    tell_result(
        arguments, content, [f"{arguments.train} training and {arguments.test} test images are at {arguments.out}"]
    )
    return 0
