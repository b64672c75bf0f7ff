"""Settings and frames that cannot be used are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.errors import ConfigError, FrameError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": 10.0, "outer": 10.0}, "inner < outer"),
        ({"inner": -1.0, "outer": 10.0}, "inner < outer"),
        ({"inner": 10.0, "outer": float("inf")}, "inner < outer"),
        ({"inner": 10.0, "outer": None}, "neither"),
        ({"smooth_minimum_sharpness": 0.0}, "sharpness"),
        ({"blur_width": -0.1}, "blur width"),
        ({"blur_width": float("nan")}, "blur width"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        CutoffSettings(**settings)


def test_a_periodic_system_needs_a_cutoff(tools):
    with pytest.raises(ConfigError, match="periodic, but the embedding has no cutoff"):
        CutoffEmbedding(tools.mixed_case("cubic").system, CutoffSettings(inner=None))


def test_bad_frames(tools):
    case = tools.mixed_case("cubic")
    embedding = CutoffEmbedding(case.system, tools.settings)
    positions, cells = case.tensors(2)
    with pytest.raises(FrameError, match="no cell"):
        embedding(positions, None)
    with pytest.raises(FrameError, match="one for each frame"):
        embedding(positions, cells[:1])
    with pytest.raises(FrameError, match="atoms, but the topology has"):
        embedding(positions[:, 1:], cells)
    with pytest.raises(FrameError, match=r"frame 1.*singular"):
        embedding(positions, torch.stack([cells[0], torch.ones((3, 3), dtype=torch.float64)]))
    with pytest.raises(FrameError, match=r"frame 1.*not finite"):
        embedding(positions, torch.stack([cells[0], cells[1] * torch.nan]))
    broken = positions.clone()
    broken[1, 7, 2] = torch.inf
    with pytest.raises(FrameError, match="atom 7 in frame 1"):
        embedding(broken, cells)


@pytest.mark.parametrize("blur_width", [0.0, 1.0])
@pytest.mark.parametrize("distance", [0.0, 1e-8])
def test_a_charge_on_a_qm_atom(tools, distance, blur_width):
    case = tools.mixed_case("cubic")
    site = int(np.flatnonzero(case.system.site_atoms == case.system.group_references[3])[0])
    positions, cells = case.tensors(2)
    positions[1, case.system.group_references[3]] = positions[1, case.system.qm_atoms[2]] + distance + cells[1, 0]
    embedding = CutoffEmbedding(case.system, CutoffSettings(8.0, 12.0, 2.0, blur_width))
    if distance:
        tolerance_kept = (
            positions[1, case.system.group_references[3]] - cells[1, 0] != positions[1, case.system.qm_atoms[2]]
        )
        assert tolerance_kept.all()
    with pytest.raises(FrameError, match=f"MM site {site} .*QM atom {case.system.qm_atoms[2]} in frame 1"):
        embedding(positions, cells)
