"""Dispersion from the parts of its library, against the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tad_dftd3.disp import dftd3

from deltaqmmm.dftb.dispersion import D3Dispersion


@pytest.mark.parametrize("symbols", [("H",), ("O", "H", "H"), ("C", "O", "H", "H", "S", "N", "Br")])
def test_as_the_library(symbols):
    generator = torch.Generator().manual_seed(3)
    own = D3Dispersion(symbols, torch.device("cpu"))
    # From crowded to far apart: coordination numbers between those of the reference systems, and far from them.
    scales = torch.tensor([1.5, 3.0, 6.0, 40.0], dtype=torch.float64)[:, None, None]
    positions = scales * torch.randn(4, len(symbols), 3, generator=generator, dtype=torch.float64)
    positions.requires_grad_()
    found, expected = own(positions), dftd3(own._numbers.expand(4, -1), positions, own._parameters).sum(-1)
    assert found.shape == (4,)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-18)
    weights = torch.randn(4, generator=generator, dtype=torch.float64)
    pair = [torch.autograd.grad((energies * weights).sum(), positions)[0] for energies in (found, expected)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-14)
    energies, gradients = own.with_gradients(positions)
    assert not energies.requires_grad
    assert not gradients.requires_grad
    torch.testing.assert_close(energies, found.detach(), rtol=0.0, atol=0.0)
    (expected,) = torch.autograd.grad(own(positions).sum(), positions)
    torch.testing.assert_close(gradients, expected, rtol=1e-14, atol=0.0)
    assert len(symbols) == 1 or (found[:3] < -1e-7).all()


def test_starts_quickly():
    """A driver without dispersion does not wait for the library, and one with it does not for torch's compiler."""
    slow = "print(*({'tad_dftd3', 'torch._dynamo', 'ase.io'} & set(sys.modules)))"
    program = f"""
import sys
import deltaqmmm.cli.drive, deltaqmmm.config.loading
{slow}
import deltaqmmm.dftb.dispersion
{slow}
import torch._dynamo
print(torch._dynamo.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "tad_dftd3", "torch._dynamo"]
