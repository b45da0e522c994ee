# SPDX-License-Identifier: BSD-2-Clause
"""What the search for bands is told, held against the bands themselves."""

from __future__ import annotations

import random

import numpy as np
from test_stripes import PIECES, Chain, lowered

from cloister.compile.planner import alive_at
from cloister.compile.prospects import Prospects, heights
from cloister.compile.stripes import Region, find_region, stripe


def test_heights_cover_all_counts_of_bands_once() -> None:
    for height in (2, 3, 7, 112, 224, 5000):
        bands, rows = heights(height)
        assert rows[-1] == 1 and bands[-1] == height
        assert (np.diff(bands) > 0).all() and (np.diff(rows) < 0).all()
        assert (-(-height // rows) == bands).all()
        assert len(bands) <= 32


def all_read(region: Region) -> bool:
    """Every result of the region but the last is read inside of it."""
    outs = [cut.op.refs["out"].memory for cut in region.cuts]
    reads = [memory for cut in region.cuts for memory in cut.op.reads]
    return all(out is outs[-1] or out in reads for out in outs)


def test_prospects_are_the_regions_and_know_their_memory() -> None:
    """Every region is there, no other is, and its memory is mostly that of its bands."""
    chance = random.Random(3)
    ratios = []
    for seed in range(15):
        chain = Chain(seed, 4, chance.randrange(8, 30), 2 * chance.randrange(2, 9))
        for _ in range(chance.randrange(1, 7)):
            chain.grow(chance.choice(PIECES))
        _, base = lowered(chain.model(), None)
        known = Prospects(base.ops, *base.ends)
        for stop in range(1, len(base.ops) + 1):
            found = {prospect.start: prospect for prospect in known.ending(stop)}
            for start in range(stop):
                region = find_region(start, known.cuts[start:stop], known.uses, known.fixed)
                useful = region is not None and region.height > 1 and all_read(region)
                assert useful == (start in found)
                if region is None or start not in found:
                    continue
                prospect = found[start]
                for place in range(0, len(prospect.rows), 3):
                    ops = [*base.ops[:start], *stripe(region, int(prospect.rows[place]), 0), *base.ops[stop:]]
                    alive, _ = alive_at(ops, *base.ends)
                    ratios.append(int(prospect.need[place]) / max(alive[start : len(ops) - len(base.ops) + stop]))
    low, middle, high = np.quantile(ratios, [0.02, 0.5, 0.95])
    assert low >= 0.95
    assert middle == 1.0
    assert high <= 1.3
