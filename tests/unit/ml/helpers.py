"""Small models, molecules and surroundings for the tests of the network; nothing here is fitted."""

from __future__ import annotations

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


def small_functions(**changes):
    """Every kind of function once, with short cutoffs; lengths in bohr."""
    values = {
        "qm_cutoff": 7.0,
        "qm_radial": (
            RadialFunction("g1"),
            RadialFunction("g2", eta=0.4, shift=2.1),
            RadialFunction("g3", kappa=0.9),
        ),
        "angular_cutoff": 5.5,
        "angular_radial": (RadialFunction("g2", eta=0.1, shift=1.9), RadialFunction("g2", eta=0.3)),
        "angular_zetas": (1, 4),
        "directions": (RadialFunction("g2", eta=0.2), RadialFunction("g2", eta=0.5, shift=2.0)),
        "mm_cutoff": MM_CUTOFF,
        "mm_radial": (
            RadialFunction("g1"),
            RadialFunction("g2", eta=0.05),
            RadialFunction("g2", eta=0.2, shift=3.5),
            RadialFunction("g3", kappa=0.8),
        ),
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


def plain_radial(function, distance, cutoff):
    """Behler's G1, G2, G3 with f_c = (1 - (r/r_c)^2)^3, for one distance."""
    if distance >= cutoff:
        return 0.0 * distance
    window = (1 - (distance / cutoff) ** 6) ** 3
    if function.kind == "g1":
        return window
    if function.kind == "g2":
        return torch.exp(-function.eta * (distance - function.shift) ** 2) * window
    return torch.cos(function.kappa * distance) * window


def plain_structure(functions, elements, symbols, positions):
    """Functions (n, G) and weighted directions (n, D, 3) of one molecule, atom by atom."""
    pairs = [(a, b) for index, a in enumerate(elements) for b in elements[index:]]
    rows, direction_rows = [], []
    for i, centre in enumerate(positions):
        radial = {(e, f): torch.zeros((), dtype=torch.float64) for e in elements for f in functions.qm_radial}
        directions = {(e, f): torch.zeros(3, dtype=torch.float64) for e in elements for f in functions.directions}
        kinds = [
            (g, zeta, sign) for g in functions.angular_radial for zeta in functions.angular_zetas for sign in (1, -1)
        ]
        angular = {(pair, kind): torch.zeros((), dtype=torch.float64) for pair in pairs for kind in kinds}
        for j, other in enumerate(positions):
            if j == i:
                continue
            to_j = other - centre
            r_ij = torch.linalg.norm(to_j)
            for f in functions.qm_radial:
                radial[symbols[j], f] = radial[symbols[j], f] + plain_radial(f, r_ij, functions.qm_cutoff)
            for f in functions.directions:
                weighted = plain_radial(f, r_ij, functions.angular_cutoff) * to_j / r_ij
                directions[symbols[j], f] = directions[symbols[j], f] + weighted
            for k in range(j):
                if k == i:
                    continue
                to_k = positions[k] - centre
                r_ik = torch.linalg.norm(to_k)
                cosine = (to_j @ to_k) / (r_ij * r_ik)
                pair = tuple(sorted((symbols[j], symbols[k])))
                for kind in kinds:
                    g, zeta, sign = kind
                    term = 2.0 ** (1 - zeta) * (1 + sign * cosine) ** zeta
                    term = term * plain_radial(g, r_ij, functions.angular_cutoff)
                    term = term * plain_radial(g, r_ik, functions.angular_cutoff)
                    angular[pair, kind] = angular[pair, kind] + term
        rows.append(torch.stack([*radial.values(), *angular.values()]))
        direction_rows.append(torch.stack(list(directions.values())))
    return torch.stack(rows), torch.stack(direction_rows)


def plain_moments(functions, cutoff, qm, mm, weights, kinds, n_types):
    """S and V of one frame, shape (n, F, 4, T), site by site."""
    atoms = []
    for centre in qm:
        blocks = []
        for function in functions:
            columns = []
            for kind in range(n_types):
                total = torch.zeros(4, dtype=torch.float64)
                for site, weight, own in zip(mm, weights, kinds, strict=True):
                    if own == kind:
                        d = site - centre
                        value = weight * plain_radial(function, torch.linalg.norm(d), cutoff)
                        total = total + torch.cat([value[None], value * d])
                columns.append(total)
            blocks.append(torch.stack(columns, dim=1))
        atoms.append(torch.stack(blocks))
    return torch.stack(atoms)


def plain_features(structure, directions, moments):
    """The features of one atom: structure, sums, products with directions, products with each other."""
    n_functions, _, n_types = moments.shape
    parts = [*structure]
    parts += [moments[f, 0, t] for f in range(n_functions) for t in range(n_types)]
    parts += [
        directions[d] @ moments[f, 1:, t]
        for d in range(len(directions))
        for f in range(n_functions)
        for t in range(n_types)
    ]
    parts += [
        moments[f, 1:, t] @ moments[f, 1:, s]
        for f in range(n_functions)
        for t in range(n_types)
        for s in range(t, n_types)
    ]
    return torch.stack(parts)


def plain_energies(model, symbols, qm, mm, charges, sites):
    """Energies of all members for one frame, atom by atom, layer by layer; differentiable. Padding (-1) is left out."""
    functions, network, elements = model.functions, model.network, model.info.elements
    names = {"element": SITE_SYMBOLS, "name": SITE_TYPES, "none": ("*",) * len(SITE_TYPES)}[functions.mm_type_by]
    present = [k for k, site in enumerate(sites.tolist()) if site >= 0 and SITE_CHARGES[site] != 0.0]
    kinds = [model.info.mm_types.index(names[int(sites[k])]) for k in present]
    weights = charges[present]
    if functions.mm_weight == "count":
        weights = weights / torch.as_tensor(SITE_CHARGES)[sites[present]]
    structure, directions = plain_structure(functions, elements, symbols, qm)
    moments = plain_moments(
        functions.mm_radial, functions.mm_cutoff, qm, mm[present], weights, kinds, len(model.info.mm_types)
    )
    energies = []
    for member in range(network.n_members):
        energy = torch.zeros((), dtype=torch.float64)
        for i, symbol in enumerate(symbols):
            features = plain_features(structure[i], directions[i], moments[i])
            values = (features - network.get_buffer(f"mean_{symbol}")) @ network.get_buffer(f"transform_{symbol}")
            for layer in range(len(network.hidden) + 1):
                weight = network.get_parameter(f"weight_{symbol}_{layer}").detach()[member]
                bias = network.get_parameter(f"bias_{symbol}_{layer}").detach()[member, 0]
                values = values @ weight + bias
                if layer < len(network.hidden):
                    values = values * torch.sigmoid(values)
            energy = energy + values[0] * network.get_buffer("scale") + model.offsets[elements.index(symbol)]
        energies.append(energy)
    return torch.stack(energies)
