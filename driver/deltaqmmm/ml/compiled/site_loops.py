"""The sites of a frame in order of their types and along the QM region, and those around one QM atom."""

from __future__ import annotations

import math

from deltaqmmm.jit import inlined
from deltaqmmm.ml.compiled.tables import BINS, LANES, Sites
from deltaqmmm.results import FloatArray, IntArray


@inlined("contract")
def middle(qm: FloatArray) -> tuple[float, float, float, float]:
    """The centre of the QM atoms of one frame, and how far the furthest of them is from it."""
    x0 = y0 = z0 = widest = 0.0
    for atom in range(len(qm)):
        x0, y0, z0 = x0 + qm[atom, 0] / len(qm), y0 + qm[atom, 1] / len(qm), z0 + qm[atom, 2] / len(qm)
    for atom in range(len(qm)):
        widest = max(widest, (qm[atom, 0] - x0) ** 2 + (qm[atom, 1] - y0) ** 2 + (qm[atom, 2] - z0) ** 2)
    return x0, y0, z0, math.sqrt(widest)


@inlined("contract")
def _farthest(qm: FloatArray, x: float, y: float, z: float) -> int:
    """The QM atom that is farthest from a point."""
    found, largest = 0, -1.0
    for atom in range(len(qm)):
        squared = (qm[atom, 0] - x) ** 2 + (qm[atom, 1] - y) ** 2 + (qm[atom, 2] - z) ** 2
        if squared > largest:
            found, largest = atom, squared
    return found


@inlined("contract")
def _find_axis(qm: FloatArray, x0: float, y0: float, z0: float, reach: float, axis: FloatArray) -> None:
    """Fill in the axis: between QM atoms that are far from each other, with bins up to the reach from the centre."""
    first = _farthest(qm, x0, y0, z0)
    second = _farthest(qm, qm[first, 0], qm[first, 1], qm[first, 2])
    x, y, z = qm[second, 0] - qm[first, 0], qm[second, 1] - qm[first, 1], qm[second, 2] - qm[first, 2]
    length = math.sqrt(x * x + y * y + z * z)
    if length > 0.0:
        scale = 0.5 * BINS / (reach * length)
        axis[0], axis[1], axis[2] = scale * x, scale * y, scale * z
    else:
        axis[0], axis[1], axis[2] = 0.5 * BINS / reach, 0.0, 0.0
    axis[3] = 0.5 * BINS - (axis[0] * x0 + axis[1] * y0 + axis[2] * z0)


@inlined("contract")
def _start_bins(bins: IntArray, starts: IntArray) -> None:
    """Make starts of the bins of their counts, which are two places further, one place further; and of types."""
    starts[0] = 0
    for kind in range(len(bins)):
        place = starts[kind]
        bins[kind, 0] = bins[kind, 1] = place
        for index in range(2, BINS + 2):
            place += bins[kind, index]
            bins[kind, index] = place
        starts[kind + 1] = LANES * ((place + LANES - 1) // LANES)


@inlined("contract")
def sort_sites(
    cutoff: float,
    qm: FloatArray,
    mm: FloatArray,
    weights: FloatArray,
    types: IntArray,
    weightless: bool,
    sites: Sites,
) -> bool:
    """Those sites of one frame that may be within the cutoff of a QM atom; False for a type that there is not."""
    x0, y0, z0, widest = middle(qm)
    # A little more, for roundings.
    reach = (cutoff + widest) * (1.0 + 1e-6)
    bins, within, steps, n_types, furthest = sites.bins, sites.within, sites.steps, len(sites.starts) - 1, reach**2
    _find_axis(qm, x0, y0, z0, reach, sites.axis)
    for kind in range(n_types):
        for index in range(BINS + 2):
            bins[kind, index] = 0
    a, b, c, d = sites.axis[0], sites.axis[1], sites.axis[2], sites.axis[3]
    count, all_numbers = 0, d == d
    for site in range(len(mm)):
        x, y, z, kind = mm[site, 0], mm[site, 1], mm[site, 2], types[site]
        beyond = (x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2 > furthest
        # What is not a number goes on, so that it shows.
        if beyond or (weights[site] == 0.0 and not weightless):
            continue
        if kind < 0 or kind >= n_types:
            return False
        step = a * x + b * y + (c * z + d)
        all_numbers &= step == step
        index = min(max(int(step), 0), BINS - 1) if step == step else 0
        bins[kind, index + 2] += 1
        within[count], steps[count] = site, index
        count += 1
    _start_bins(bins, sites.starts)
    for place in range(count):
        site, kind, index = within[place], types[within[place]], steps[place] + 1
        found = bins[kind, index]
        bins[kind, index] = found + 1
        sites.table[0, found], sites.table[1, found], sites.table[2, found] = mm[site, 0], mm[site, 1], mm[site, 2]
        sites.table[3, found] = weights[site]
        sites.numbers[found] = site
    for kind in range(n_types):
        for place in range(bins[kind, BINS], sites.starts[kind + 1]):
            # Beyond the cutoff of all.
            sites.table[0, place], sites.table[1, place], sites.table[2, place] = x0 + 4.0 * reach, y0, z0
            sites.table[3, place], sites.numbers[place] = 0.0, -1
    if not all_numbers:
        # Around every atom there are all sites then.
        sites.axis[3] = math.nan
    return True


@inlined("contract")
def part_around(cutoff: float, centre: FloatArray, kind: int, sites: Sites) -> tuple[int, int]:
    """Between which places the sites of one type are that may be within the cutoff of a centre."""
    axis = sites.axis
    place = axis[0] * centre[0] + axis[1] * centre[1] + (axis[2] * centre[2] + axis[3])
    # A little more, for roundings.
    reach = cutoff * math.sqrt(axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2) + 1e-3
    if not (place - reach < BINS and place + reach > 0.0):
        # What is not a number shows.
        return sites.starts[kind], sites.starts[kind + 1]
    first, last = max(int(place - reach), 0), min(int(place + reach) + 1, BINS)
    return sites.bins[kind, first], sites.bins[kind, last]


@inlined("contract")
def most_within(cutoff: float, qm: FloatArray) -> bool:
    """Whether most of the sites that are within the cutoff of one QM atom are so of all: then none is picked out."""
    return cutoff**3 > 0.45 * (cutoff + middle(qm)[3]) ** 3


@inlined("contract")
def _lower(centre: FloatArray, count: int, points: FloatArray, nearest: FloatArray) -> None:
    """Lower the squared distances of points (3, K) to the nearest centre, where this one is nearer."""
    a, b, c = centre[0], centre[1], centre[2]
    xs, ys, zs = points[0], points[1], points[2]
    for place in range(count):
        squared = (xs[place] - a) ** 2 + (ys[place] - b) ** 2 + (zs[place] - c) ** 2
        nearest[place] = nearest[place] if squared >= nearest[place] else squared


@inlined("contract")
def list_near(
    distance: float, qm: FloatArray, mm: FloatArray, places: IntArray, nearest: FloatArray, points: FloatArray
) -> int:
    """List the sites of one frame that are nearer than a distance to a QM atom; how many there are.

    Also filled in are their squared distances to the nearest QM atom; the others stay infinite. In places (K + 1,) and
    nearest (K + 1,) there must be one more place than sites, where each is noted before it is known whether it counts.
    There must be room for points (3, K + 1).
    """
    x0, y0, z0, widest = middle(qm)
    furthest, limit, count = (distance + widest) ** 2 * (1.0 + 1e-6), distance**2, 0
    for site in range(len(mm)):
        x, y, z = mm[site, 0], mm[site, 1], mm[site, 2]
        # Without a branch that cannot be foretold.
        places[count], points[0, count], points[1, count], points[2, count] = site, x, y, z
        count += 1 - int((x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2 > furthest)
    for place in range(count):
        nearest[place] = math.inf
    for atom in range(len(qm)):
        _lower(qm[atom], count, points, nearest)
    found = 0
    for place in range(count):
        places[found], nearest[found] = places[place], nearest[place]
        # What is not a number goes on, so that it shows.
        found += 1 - int(nearest[place] >= limit)
    for place in range(found, count + 1):
        places[place], nearest[place] = 0, math.inf
    return found


@inlined("contract")
def find_within(cutoff: float, centre: FloatArray, kind: int, sites: Sites) -> int:
    """List the sites of one type that are within the cutoff of a centre; how many there are."""
    x, y, z, limit = centre[0], centre[1], centre[2], cutoff**2
    start, stop = part_around(cutoff, centre, kind, sites)
    # Places in parts of arrays are known not to be negative.
    xs, ys, zs = sites.table[0, start:stop], sites.table[1, start:stop], sites.table[2, start:stop]
    squared, within = sites.squared, sites.within
    for place in range(len(xs)):
        squared[place] = (xs[place] - x) ** 2 + (ys[place] - y) ** 2 + (zs[place] - z) ** 2
    count = 0
    for place in range(len(xs)):
        # Without a branch that cannot be foretold.
        within[count] = start + place
        count += 1 - int(squared[place] >= limit)
    return count


@inlined("contract")
def load(centre: FloatArray, sites: Sites, begin: int, end: int, pairs: FloatArray) -> int:
    """Make pairs of a centre and some of the sites within the cutoff.

    Returns their number, filled up to a multiple of the lanes with pairs of no weight.
    """
    x, y, z, size, table = centre[0], centre[1], centre[2], end - begin, sites.table
    for pair in range(size):
        site = sites.within[begin + pair]
        pairs[0, pair] = table[0, site] - x
        pairs[1, pair] = table[1, site] - y
        pairs[2, pair] = table[2, site] - z
        pairs[3, pair] = table[3, site]
    filled = LANES * ((size + LANES - 1) // LANES)
    for pair in range(size, filled):
        pairs[0, pair] = pairs[1, pair] = pairs[2, pair] = pairs[3, pair] = 0.0
    for pair in range(filled):
        pairs[4, pair] = pairs[0, pair] ** 2 + pairs[1, pair] ** 2 + pairs[2, pair] ** 2
    return filled


@inlined("contract", "reassoc", "nsz")
def load_all(centre: FloatArray, sites: Sites, begin: int, end: int, pairs: FloatArray) -> None:
    """Make pairs of a centre and consecutive sites, whose functions are zero beyond the cutoff."""
    size = end - begin
    for y in range(3):
        row, place = sites.table[y, begin:end], centre[y]
        for pair in range(size):
            pairs[y, pair] = row[pair] - place
    row = sites.table[3, begin:end]
    for pair in range(size):
        pairs[3, pair] = row[pair]
    for pair in range(size):
        pairs[4, pair] = pairs[0, pair] ** 2 + pairs[1, pair] ** 2 + pairs[2, pair] ** 2


@inlined()
def clear(array: FloatArray, n_rows: int, n_columns: int) -> None:
    """Set so many rows and columns to zero."""
    for row in range(n_rows):
        for column in range(n_columns):
            array[row, column] = 0.0
