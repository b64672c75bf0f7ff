"""What no version can beat: LAPACK's eigensolver alone, and the matrix products alone, in batch."""

import time

import torch

from deltaqmmm.threads import side_by_side, threads_of_loops

PRODUCTS_PER_CYCLE = 3
"""Two to bring the Hamiltonian into an orthogonal basis, one for the density."""

LARGEST_STACK = 2**25
"""Numbers in one stack of matrices: beyond it the stack is cut, and so is the memory."""


def synchronise(device):
    """Wait for the device: its clock is read by the processor."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def eigensolver_seconds(n_orbitals, count, device="cpu"):
    """Time of `count` diagonalisations of symmetric matrices of the size of the QM region."""
    return _timed(torch.linalg.eigh, n_orbitals, count, device)


def product_seconds(n_orbitals, count, device="cpu"):
    """Time of the matrix products of `count` SCC cycles."""
    return _timed(_products, n_orbitals, count, device)


def _products(matrices):
    for _ in range(PRODUCTS_PER_CYCLE):
        torch.bmm(matrices, matrices)


def _timed(function, n_orbitals, count, device):
    seconds = 0.0
    stack = max(1, LARGEST_STACK // n_orbitals**2)
    while count > 0:
        matrices = torch.randn(min(stack, count), n_orbitals, n_orbitals, dtype=torch.float64, device=device)
        matrices = matrices + matrices.transpose(1, 2)
        synchronise(device)
        start = time.perf_counter()
        if matrices.is_cuda:
            function(matrices)
        else:
            # On as many threads as our loops: torch itself has one beside them.
            side_by_side(lambda part, all_=matrices: function(all_[part]), len(matrices), threads_of_loops())
        synchronise(device)
        seconds += time.perf_counter() - start
        count -= stack
    return seconds
