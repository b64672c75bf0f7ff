"""Small models, molecules and surroundings for the tests of the network; nothing here is fitted."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from deltaqmmm.ml import (
    CommitteeModel,
    CommitteeNetwork,
    ModelInfo,
    RadialFunction,
    SymmetryFunctions,
    n_features,
)

FORMALDEHYDE = ("C", "O", "H", "H")
FORMALDEHYDE_POSITIONS = torch.tensor(
    [[0.03, -0.02, 0.01], [0.05, 0.1, 2.28], [1.77, 0.07, -1.11], [-1.75, -0.12, -1.05]], dtype=torch.float64
)
# Two waters, an ion, and a site without charge.
SITE_SYMBOLS = ("O", "H", "H", "O", "H", "H", "Na", "")
SITE_TYPES = ("WAT:O", "WAT:H1", "WAT:H2", "WAT:O", "WAT:H1", "WAT:H2", "Na+:Na+", "LIG:EP")
SITE_CHARGES = np.array([-0.83, 0.415, 0.415, -0.83, 0.415, 0.415, 1.0, 0.0])
KNOWN_TYPES = {
    "element": ("H", "Na", "O"),
    "name": ("Na+:Na+", "WAT:H1", "WAT:H2", "WAT:O"),
    "none": ("*",),
}
MM_CUTOFF = 9.0
NEAR_CUTOFF = 6.5


def small_functions(**changes):
    """Every kind of function once, with short cutoffs, and both shells; lengths in bohr."""
    values = {
        "qm_cutoff": 7.0,
        "qm_radial": (
            RadialFunction("g1"),
            RadialFunction("g2", eta=0.4, shift=2.1),
            RadialFunction("g3", kappa=0.9),
        ),
        "angular_cutoff": 5.5,
        "angular_radial": (RadialFunction("g2", eta=0.1, shift=1.9), RadialFunction("g2", eta=0.3)),
        "angular_order": 3,
        "mm_cutoff": MM_CUTOFF,
        "mm_radial": (
            RadialFunction("g1"),
            RadialFunction("g2", eta=0.05),
            RadialFunction("g2", eta=0.2, shift=3.5),
            RadialFunction("g3", kappa=0.8),
        ),
        "mm_near_cutoff": NEAR_CUTOFF,
        # The second is the square of the first.
        "mm_near_radial": (
            RadialFunction("g2", eta=0.06),
            RadialFunction("g2", eta=0.12),
            RadialFunction("g3", kappa=0.5),
        ),
        "mm_near_rank": 2,
    }
    return SymmetryFunctions(**{**values, **changes})


def make_model(
    functions=None, elements=("C", "H", "N", "O"), mm_types=None, n_members=3, hidden=(8, 5), seed=1, target="delta"
):
    """A committee with random weights, energies of some tens of kJ/mol."""
    functions = functions or small_functions()
    mm_types = mm_types or KNOWN_TYPES[functions.mm_type_by]
    count = n_features(functions, len(elements), len(mm_types))
    n_inputs = [min(count, 11 + index) for index in range(len(elements))]
    network = CommitteeNetwork(elements, count, n_inputs, hidden, n_members).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            width = parameter.shape[1] if parameter.shape[1] > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / math.sqrt(width))
        for element in elements:
            for name, size in (("mean", 0.5), ("transform", 1.5 / math.sqrt(count))):
                buffer = network.get_buffer(f"{name}_{element}")
                buffer.copy_(size * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
            # Inputs are of the order of 1: some are noticeably bounded.
            reach = network.get_buffer(f"reach_{element}")
            reach.copy_(1.5 + 1.5 * torch.rand(reach.shape, generator=generator, dtype=torch.float64))
        network.get_buffer("scale").fill_(0.02)
    info = ModelInfo(
        target=target,
        elements=tuple(elements),
        mm_types=tuple(mm_types),
        embedding={"kind": "cutoff", "inner_angstrom": 12.0},
        level={"functional": "pbe0"},
        baseline={"model": "dftb3"},
        n_members=n_members,
        n_parameters=network.n_parameters,
        provenance={"note": "random weights"},
    )
    offsets = -0.1 * torch.arange(1, len(elements) + 1, dtype=torch.float64)
    return CommitteeModel(info, functions, network, offsets)


def bind(model, symbols=FORMALDEHYDE, **options):
    """The model bound to formaldehyde among the sites above."""
    return model.bind(symbols, SITE_SYMBOLS, SITE_TYPES, SITE_CHARGES, **options)


def make_frames(n_frames=2, n_sites=7, seed=0, spread=0.1):
    """Distorted formaldehyde among sites from contact to beyond the cutoff: (qm, mm, charges, sites).

    The last site stands in the tail of the cutoff of the oxygen, and beyond that of the hydrogens.
    """
    rng = np.random.default_rng(seed)
    qm = FORMALDEHYDE_POSITIONS.numpy() + rng.normal(scale=spread, size=(n_frames, 4, 3))
    directions = rng.normal(size=(n_frames, n_sites, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    distances = np.linspace(4.0, 1.1 * MM_CUTOFF, n_sites)[:, None]
    mm = directions * distances
    # Away from the molecule, so that the oxygen is the nearest atom.
    outwards = np.array([0.2, 0.1, 1.0]) + 0.1 * rng.normal(size=(n_frames, 3))
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    mm[:, -1] = qm[:, 1] + outwards * (MM_CUTOFF - 0.8)
    sites = np.tile(np.arange(n_sites) % 7, (n_frames, 1))
    weights = rng.uniform(0.3, 1.0, size=sites.shape)
    charges = SITE_CHARGES[sites] * weights
    return tuple(torch.as_tensor(array) for array in (qm, mm, charges, sites))


def random_rotation(rng):
    """A proper rotation matrix."""
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    return torch.as_tensor(matrix * np.linalg.det(matrix))


# ------------------------------------------------------------- plain loops, from the formulas of the docstrings


def plain_radial(function, distance, cutoff, rank=0):
    """Behler's G1, G2, G3 with f_c = (1 - (r/r_c)^6)^3, or f_c / r and f_c / r^3 by the rank, for one distance."""
    if distance >= cutoff:
        return 0.0 * distance
    window = (1 - (distance / cutoff) ** 6) ** 3
    if function.kind == "g1":
        return window
    if function.kind == "g2":
        return torch.exp(-function.eta * (distance - function.shift) ** 2) * window
    if function.kind == "coulomb":
        return window / distance ** (2 * rank + 1)
    return torch.cos(function.kappa * distance) * window


def plain_rows(vector, rank):
    """1, then x, y, z, then their products of two and of three with the roots of 2, 3 and 6, up to a rank of 3."""
    x, y, z = vector
    two, three, six = (math.sqrt(number) for number in (2.0, 3.0, 6.0))
    rows = [torch.ones_like(x), x, y, z]
    rows += [x * x, two * x * y, two * x * z, y * y, two * y * z, z * z]
    rows += [x * x * x, three * x * x * y, three * x * x * z, three * x * y * y, six * x * y * z, three * x * z * z]
    rows += [y * y * y, three * y * y * z, three * y * z * z, z * z * z]
    return torch.stack(rows[: (1, 4, 10, 20)[rank]])


def tensor_of(rows):
    """Of rows 4 to 9 above, on the last axis: the symmetric tensor with these products of components, (..., 3, 3)."""
    xx, xy, xz, yy, yz, zz = rows.unbind(dim=-1)
    xy, xz, yz = (mixed / math.sqrt(2.0) for mixed in (xy, xz, yz))
    lines = (torch.stack(line, dim=-1) for line in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)))
    return torch.stack(list(lines), dim=-2)


def shells_of(functions):
    """(radial functions, cutoff, rank) of the outer and of the inner shell."""
    return (
        (functions.mm_radial, functions.mm_cutoff, functions.mm_rank),
        (functions.mm_near_radial, functions.mm_near_cutoff, functions.mm_near_rank),
    )


def plain_moments(shell, qm, mm, weights, kinds, n_types):
    """The sums of one shell in one frame, shape (n, F, rows, T), site by site."""
    functions, cutoff, rank = shell
    n_rows = (1, 4, 10, 20)[rank]
    atoms = []
    for centre in qm:
        sums = [[torch.zeros(n_rows).to(qm) for _ in range(n_types)] for _ in functions]
        for site, weight, kind in zip(mm, weights, kinds, strict=True):
            d = site - centre
            for function, columns in zip(functions, sums, strict=True):
                first, others = (plain_radial(function, torch.linalg.norm(d), cutoff, p) for p in (0, 1))
                values = torch.stack([first, *[others] * (n_rows - 1)])
                columns[kind] = columns[kind] + weight * values * plain_rows(d, rank)
        columns = [column for columns in sums for column in columns]
        stacked = torch.stack(columns) if columns else torch.zeros(0, n_rows).to(qm)
        atoms.append(stacked.reshape(len(functions), n_types, n_rows))
    return torch.stack(atoms).transpose(2, 3)


def plain_neighbours(functions, elements, symbols, positions):
    """Sums of radial functions (n, F, 1, E) and of directions (n, F, rows, E) over the QM atoms of one frame."""
    radial = torch.zeros(len(positions), len(functions.qm_radial), 1, len(elements), dtype=torch.float64)
    shape = len(positions), len(functions.angular_radial), (1, 4, 10, 20)[functions.angular_order], len(elements)
    angular = torch.zeros(shape, dtype=torch.float64)
    for i, j in itertools.permutations(range(len(positions)), 2):
        d = positions[j] - positions[i]
        r = torch.linalg.norm(d)
        for f, function in enumerate(functions.qm_radial):
            radial = radial.index_put(
                tuple(map(torch.tensor, (i, f, 0, elements.index(symbols[j])))),
                plain_radial(function, r, functions.qm_cutoff),
                accumulate=True,
            )
        for f, function in enumerate(functions.angular_radial):
            place = torch.zeros(angular.shape, dtype=torch.float64)
            place[i, f, :, elements.index(symbols[j])] = 1.0
            value = plain_radial(function, r, functions.angular_cutoff) * plain_rows(d / r, functions.angular_order)
            angular = angular + place * value[:, None]
    return radial, angular


def plain_inside(functions, elements, symbols, qm, i):
    """The features of atom i that come of the QM atoms: sums over neighbours j, and over j and k.

    sum_j g(r_ij) by element; and for p from 1 on sum_jk g(r_ij) g(r_ik) cos^p theta_jik, by pair of elements.
    """
    others = [j for j in range(len(qm)) if j != i]
    n_elements, n_f = len(elements), len(functions.angular_radial)
    radial = [[torch.zeros((), dtype=torch.float64)] * n_elements for _ in functions.qm_radial]
    powers = range(1, functions.angular_order + 1)
    pairs = {
        (p, f, e, o): torch.zeros((), dtype=torch.float64)
        for p in powers for f in range(n_f) for e in range(n_elements) for o in range(e, n_elements)
    }  # fmt: skip
    for j in others:
        to_j = qm[j] - qm[i]
        r_j = torch.linalg.norm(to_j)
        e = elements.index(symbols[j])
        for f, function in enumerate(functions.qm_radial):
            radial[f][e] = radial[f][e] + plain_radial(function, r_j, functions.qm_cutoff)
        for k in others:
            to_k = qm[k] - qm[i]
            r_k = torch.linalg.norm(to_k)
            o = elements.index(symbols[k])
            if e <= o:
                cosine = (to_j @ to_k) / (r_j * r_k)
                for f, function in enumerate(functions.angular_radial):
                    product = plain_radial(function, r_j, functions.angular_cutoff)
                    product = product * plain_radial(function, r_k, functions.angular_cutoff)
                    for p in powers:
                        pairs[p, f, e, o] = pairs[p, f, e, o] + product * cosine**p
    return torch.stack([*itertools.chain(*radial), *pairs.values()])


def plain_around(functions, elements, symbols, qm, i, mm, weights, kinds, n_types):
    """The features of atom i that come of the surroundings, as sums over QM neighbours j and sites k and l.

    With u_j the unit vectors to the neighbours and h_j the first radial part of the angular functions: sum_k w_k g_k;
    sum_jk h_j w_k g_k u_j.d_k; sum_kl w_k g_k w_l g_l d_k.d_l; and for rank 2 also sum_jk h_j w_k g_k (u_j.d_k)^2,
    sum_jkl h_j w_k g_k w_l g_l (u_j.d_k) (u_j.d_l), and sum_k w_k g_k r_k^2.
    """
    neighbours = []
    for j, other in enumerate(qm):
        if j != i:
            length = torch.linalg.norm(other - qm[i])
            h = plain_radial(functions.angular_radial[0], length, functions.angular_cutoff)
            neighbours.append((elements.index(symbols[j]), h, (other - qm[i]) / length))
    parts = []
    for radial, cutoff, rank in shells_of(functions):
        n_f = len(radial)
        ds = [site - qm[i] for site in mm]
        lengths = [torch.linalg.norm(d) for d in ds]
        # The length only so that there is something to stack.
        gs, g0s = (
            [
                torch.stack([*(weight * plain_radial(f, length, cutoff, p) for f in radial), length])[:-1]
                for weight, length in zip(weights, lengths, strict=True)
            ]
            for p in (1, 0)
        )
        hot = [torch.nn.functional.one_hot(torch.tensor(kind), n_types).double() for kind in kinds]
        single, squares = torch.zeros(2, n_f, n_types, dtype=torch.float64)
        mixed, mixed_squares, mixed_pairs = torch.zeros(3, len(elements), n_f, n_types, dtype=torch.float64)
        pairs = torch.zeros(n_f, n_types, n_types, dtype=torch.float64)
        for k, d in enumerate(ds):
            g = gs[k][:, None] * hot[k]
            single = single + g0s[k][:, None] * hot[k]
            squares = squares + g * lengths[k] ** 2
            for element, h, u in neighbours:
                of_element = torch.nn.functional.one_hot(torch.tensor(element), len(elements)).double()
                product = h * of_element[:, None, None] * g
                mixed = mixed + product * (u @ d)
                mixed_squares = mixed_squares + product * (u @ d) ** 2
                for other, own, kind in zip(ds, gs, kinds, strict=True):
                    if rank == 2 and kind == kinds[k]:
                        mixed_pairs = mixed_pairs + product * own[:, None] * (u @ d) * (u @ other)
            for other, own, of_other in zip(ds, gs, hot, strict=True):
                pairs = pairs + (d @ other) * g[:, :, None] * own[:, None, None] * of_other
        each_pair = [pairs[:, t, s] for t in range(n_types) for s in range(t, n_types)]
        parts += [single.flatten(), mixed.flatten(), torch.stack(each_pair, dim=1).flatten()]
        if rank == 2:
            parts += [torch.cat([mixed_squares, mixed_pairs], dim=-1).flatten(), squares.flatten()]
    return torch.cat(parts)


def plain_energies(model, symbols, qm, mm, charges, sites):
    """Energies of all members for one frame, atom by atom, layer by layer; differentiable. Padding (-1) is left out."""
    functions, network, elements = model.functions, model.network, model.info.elements
    names = {"element": SITE_SYMBOLS, "name": SITE_TYPES, "none": ("*",) * len(SITE_TYPES)}[functions.mm_type_by]
    present = [k for k, site in enumerate(sites.tolist()) if site >= 0 and SITE_CHARGES[site] != 0.0]
    kinds = [model.info.mm_types.index(names[int(sites[k])]) for k in present]
    weights = charges[present]
    if functions.mm_weight == "count":
        weights = weights / torch.as_tensor(SITE_CHARGES)[sites[present]]
    n_types = len(model.info.mm_types)
    all_features = []
    for i in range(len(symbols)):
        inside = plain_inside(functions, elements, symbols, qm, i)
        around = plain_around(functions, elements, symbols, qm, i, mm[present], weights, kinds, n_types)
        all_features.append(torch.cat([inside, around]))
    energies = []
    for member in range(network.n_members):
        energy = torch.zeros((), dtype=torch.float64)
        for i, symbol in enumerate(symbols):
            values = (all_features[i] - network.get_buffer(f"mean_{symbol}")) @ network.get_buffer(
                f"transform_{symbol}"
            )
            reach = network.get_buffer(f"reach_{symbol}")
            values = values / (1.0 + (values / reach) ** 4) ** 0.25
            for layer in range(len(network.hidden) + 1):
                weight = network.get_parameter(f"weight_{symbol}_{layer}").detach()[member]
                bias = network.get_parameter(f"bias_{symbol}_{layer}").detach()[member, 0]
                values = values @ weight + bias
                if layer < len(network.hidden):
                    values = values * torch.sigmoid(values)
            energy = energy + values[0] * network.get_buffer("scale") + model.offsets[elements.index(symbol)]
        energies.append(energy)
    return torch.stack(energies)
