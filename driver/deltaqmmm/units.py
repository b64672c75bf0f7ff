"""Unit conversion factors: the one CODATA 2022 set that deltaqmmm uses (tested against `scipy.constants`).

Inside the package everything is in atomic units (hartree, bohr, elementary charge, atomic time). A value is converted
where a file, the configuration or the screen is met: multiply by ``X`` to go from the unit named ``X`` to atomic units
(``3.0 * ANGSTROM`` is 3 angstrom in bohr), divide to come back.
"""

from __future__ import annotations

BOHR_IN_ANGSTROM = 0.529177210544
ANGSTROM = 1.0 / BOHR_IN_ANGSTROM
NANOMETRE = 10.0 * ANGSTROM

HARTREE_IN_KJ_PER_MOL = 2625.499639479163
KJ_PER_MOL = 1.0 / HARTREE_IN_KJ_PER_MOL
KCAL_PER_MOL = 4.184 * KJ_PER_MOL
HARTREE_IN_ELECTRONVOLT = 27.211386245981
ELECTRONVOLT = 1.0 / HARTREE_IN_ELECTRONVOLT

KELVIN = 3.1668115634564068e-06
"""Boltzmann's constant times one kelvin, in hartree."""

ATOMIC_TIME_IN_FEMTOSECOND = 2.4188843265864e-2
FEMTOSECOND = 1.0 / ATOMIC_TIME_IN_FEMTOSECOND

DALTON = 1822.8884862827601
"""One dalton in electron masses."""

E_BOHR_IN_DEBYE = 2.5417464714697275
