"""``python -m tests.hostile [--seed N] [--count N] [--only TEXT]``: every known way to harm, then random inputs."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain

from tests.hostile.cases import at_random, made_to_harm
from tests.hostile.judge import prepare, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=4000, help="random inputs (default: %(default)s)")
    parser.add_argument("--only", default="", help="only cases whose name holds this text")
    parser.add_argument("--verbose", action="store_true", help="a line for each input")
    options = parser.parse_args()
    prepare()
    cases = chain(made_to_harm(options.seed), (at_random(options.seed, number) for number in range(options.count)))
    done, faults, longest, most = 0, 0, (0.0, ""), (0, "")
    started = time.monotonic()
    for case in cases:
        if options.only not in case.name:
            continue
        outcome = run(case)
        if options.verbose:
            took = f"{outcome.seconds:.1f} s, {outcome.memory / 2**20:.0f} MiB, status {outcome.status}"
            print(f"{took}: {case.name}: {outcome.line}", flush=True)
        done += 1
        longest, most = max(longest, (outcome.seconds, case.name)), max(most, (outcome.memory, case.name))
        for fault in outcome.faults:
            faults += 1
            print(f"FAULT {case.name}: {fault}", flush=True)
        if done % 500 == 0:
            print(f"{done} inputs, {faults} faults, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{done} inputs, {faults} faults, {time.monotonic() - started:.0f} s")
    print(f"longest: {longest[0]:.1f} s ({longest[1]}); most memory: {most[0] / 2**20:.0f} MiB ({most[1]})")
    return 1 if faults or not done else 0


if __name__ == "__main__":
    sys.exit(main())
