"""BackdoorBench's own repairs on the backdoored models of benchmarks/repair.py, with the same share of clean samples.

    python benchmarks/repair_rivals.py [--attacks badnets,blend,sig] [--defenses ft,fp,clp,anp,ft-sam,nad,i-bau,ulrl]

Starts from the models that `advrbd reproduce` trained and stored (--work, same settings). Each becomes a record of a
BackdoorBench checkout, whose unchanged scripts are run and judged by ``advrbd compare``; ``ulrl`` there needs
`advrbd register`. Writes FOLDER/repair_rivals.json and repair_rivals.md; finished cells are cached in the checkout. The
scripts' epochs and rounds, meant for a GPU, are cut down (OPTIONS), and all is judged on --test-samples test images.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
from repair import CLEAN_SHARE
from small_scale import (
    MODEL,
    add_arguments,
    attack_of,
    backdoored_model,
    check_data,
    load,
    poison,
    variant,
    without_paths,
    write_results,
)

EVERYWHERE = ("--ratio", str(CLEAN_SHARE), "--num_workers", "0", "--frequency_save", "0")
OPTIONS = {
    "ft": ("--epochs", "20", "--batch_size", "50"),
    "fp": ("--epochs", "20", "--batch_size", "50", "--once_prune_ratio", "0.05"),
    "clp": (),
    "anp": ("--batch_size", "50", "--nb_iter", "400", "--print_every", "200"),
    "ft-sam": ("--epochs", "20", "--batch_size", "50"),
    "nad": ("--epochs", "20", "--te_epochs", "10", "--batch_size", "50"),
    "i-bau": ("--batch_size", "50", "--n_rounds", "5"),
    "ulrl": (),
}


def record_of(attack_name: str, arguments: argparse.Namespace, checkout: Path) -> str:
    """The name of the record of one attack's model, written where there is none of this very set and model."""
    from advrbd_plugin.backdoorbench.record_writer import write_record
    from advrbd_plugin.cache import digest
    from advrbd_plugin.data.selection import draw_images

    train, test = load(arguments.data, arguments.samples, arguments.seed)
    test = draw_images(test, arguments.test_samples, seed=arguments.seed)
    attack = attack_of(attack_name, arguments)
    poisoned = poison(attack, train, arguments)
    triggered = attack.triggered_test_set(test)
    samples = poisoned.image_set
    model = backdoored_model(attack_name, arguments, samples)
    key = digest(samples.images, samples.labels, test.images, triggered.images, *model.state_dict().values())
    settings = (arguments.samples, arguments.test_samples, arguments.seed, key[:8])
    name = "-".join(["repair", variant(attack_name, arguments), *map(str, settings)])
    if (checkout / "record" / name).is_dir():
        return name
    write_record(
        checkout,
        name,
        poisoned=poisoned,
        clean_train=train,
        clean_test=test,
        triggered_test=triggered,
        model_name=MODEL,
        model=model,
        dataset="cifar10",
    )
    return name


def markdown(rows: list[dict]) -> str:
    """The table of docs/ulrl.md."""
    from advrbd_plugin.table import Table, percent

    entries = []
    for row in rows:
        figures = [percent(row[name]) for name in ("acc", "asr", "ra")]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        rest = (f"stopped: {row['problem']}", "", "", "") if row["problem"] else (*figures, seconds)
        entries.append((row["attack"], row["defense"], *rest))
    return Table(("attack", "repair", "ACC", "ASR", "RA", "seconds"), tuple(entries), align="ll").markdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, attacks="badnets,blend,sig,tact,adaptive_blend")
    parser.add_argument("--test-samples", type=int, default=1_000)
    parser.add_argument("--defenses", default=",".join(OPTIONS))
    parser.add_argument("--backdoorbench", type=Path, help="the checkout (see `advrbd backdoorbench install`)")
    arguments = parser.parse_args()
    check_data(arguments)
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.evaluation.compare import Plan, compare

    checkout = find_checkout(arguments.backdoorbench)
    defenses = tuple(arguments.defenses.split(","))
    rows = []
    for attack in arguments.attacks.split(","):
        plan = Plan(
            checkout=checkout,
            records=(record_of(attack, arguments, checkout),),
            defenses=defenses,
            arguments=(*EVERYWHERE, "--random_seed", str(arguments.seed)),
            arguments_for={name: OPTIONS.get(name, ()) for name in defenses},
            detect=False,
            local_data=True,
        )
        rows += [{"attack": attack} | asdict(cell) for cell in compare(plan, tell=lambda line: print(line, flush=True))]
    for row in rows:
        row["problem"] = row["problem"] and without_paths(row["problem"], checkout)
    write_results(
        "repair_rivals",
        arguments,
        rows,
        markdown(rows),
        clean_share=CLEAN_SHARE,
        test_samples=arguments.test_samples,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
