"""`python -m benchmarks`: measure every pair in turn and print a table of ratios."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.ground import Ground
from benchmarks.pairs import PAIRS, Pair


def ratio(pair: Pair, ground: Ground, turn: int) -> float:
    """Seconds of A over seconds of B. They take turns at going first, so that neither always finds the caches warm."""
    if turn % 2 == 0:
        return pair.a(ground) / pair.b(ground)
    return 1 / (pair.b(ground) / pair.a(ground))


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--chunks", type=int, default=3000, metavar="N", help="chunks of the source (%(default)s)")
    options.add_argument("--dimension", type=int, default=384, metavar="D", help="of its vectors (%(default)s)")
    options.add_argument("--repeat", type=int, default=3, metavar="R", help="measurements a pair (%(default)s)")
    options.add_argument("--only", choices=[pair.name for pair in PAIRS], action="append", help="a pair; repeatable")
    chosen = options.parse_args()
    if chosen.chunks < 50 or chosen.dimension < 1 or chosen.repeat < 1:
        options.error("a source has 50 chunks and one dimension at least, and a pair is measured once at least")
    print(f"{chosen.chunks:,} chunks × {chosen.dimension}, each pair {chosen.repeat} times. Above 1: B is faster.\n")
    print(f"{'pair':<10} {'A':<34} {'B':<34} {'min':>6} {'median':>7} {'max':>6}")
    with (
        tempfile.TemporaryDirectory(prefix="runbook-bench-") as folder,
        Ground(Path(folder), chosen.chunks, chosen.dimension) as ground,
    ):
        for pair in PAIRS:
            if not chosen.only or pair.name in chosen.only:
                ratios = [ratio(pair, ground, turn) for turn in range(chosen.repeat)]
                low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
                figures = f"{low:6.2f} {middle:7.2f} {high:6.2f}"
                print(f"{pair.name:<10} {pair.says_a:<34} {pair.says_b:<34} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
