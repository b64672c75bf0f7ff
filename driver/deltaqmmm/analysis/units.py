"""The units that i-PI writes in braces, `potential{electronvolt}`, in the package's own constants."""

from __future__ import annotations

from deltaqmmm.errors import InputError
from deltaqmmm.units import ANGSTROM, ELECTRONVOLT, FEMTOSECOND, KELVIN, KJ_PER_MOL

_PREFIXES = {"": 1.0, "giga": 1e9, "mega": 1e6, "kilo": 1e3, "milli": 1e-3, "micro": 1e-6, "nano": 1e-9}
_PREFIXES |= {"pico": 1e-12, "femto": 1e-15, "atto": 1e-18}
_ATOMIC = ("", "automatic", "atomic_unit")
_BASES = {
    "energy": {
        "electronvolt": ELECTRONVOLT,
        "j/mol": KJ_PER_MOL * 1e-3,
        # i-PI's calorie is the international one of 4.1868 J, not the thermochemical one.
        "cal/mol": 4.1868 * KJ_PER_MOL * 1e-3,
        "kelvin": KELVIN,
        "ase": ELECTRONVOLT,
    },
    "temperature": {"kelvin": KELVIN},
    "time": {"second": FEMTOSECOND * 1e15},
    "length": {"angstrom": ANGSTROM, "meter": ANGSTROM * 1e10, "ase": ANGSTROM},
}


def to_atomic_units(unit: str, kind: str, what: str) -> float:
    """What a number in a unit is multiplied with to be in atomic units.

    Args:
        unit: As i-PI calls it: a prefix and a base, "picosecond"; "" for atomic units.
        kind: "energy", "temperature" (in hartree, as i-PI has it), "time" or "length".
        what: The quantity, for the message.

    Raises:
        InputError: The unit is not known.
    """
    name = unit.strip()
    if name in _ATOMIC:
        return 1.0
    for prefix, power in _PREFIXES.items():
        base = _BASES[kind].get(name.removeprefix(prefix).lower())
        if name.startswith(prefix) and base is not None:
            return power * base
    raise InputError(f"{what} is in '{unit}', which is no {kind} that is known here: {', '.join(_BASES[kind])}.")
