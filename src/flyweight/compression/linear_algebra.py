"""The one factorization GPTQ needs, blocked and in place: H = M M^T with M upper triangular.

Rounding the columns of W in order and feeding each column's error to the later ones costs, in outputs, the squared
norm of (W - What) M column by column: M is all that GPTQ needs, and no inverse of H is ever formed (the usual route is
three Cholesky-sized passes and two copies). It is the Cholesky factor taken from the last column backwards.

Only the upper triangle is read and written; the lower one is the caller's, for a second attempt. The work is matrix
products of the array library's BLAS; only blocks of ``BLOCK`` are factored one by one.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from flyweight.formats.base import Array

BLOCK = 128
STRIP = 1024


def factor_backwards_in_place(matrix: Any, diagonal: Any) -> None:
    """Overwrite the upper triangle of ``matrix`` (n, n) with M, upper triangular, such that M M^T is the symmetric
    matrix given by its strict upper triangle and ``diagonal`` (n,).

    Block columns are finished from the last to the first, each from those right of it; the only temporary is one
    block column.

    Raises:
        numpy.linalg.LinAlgError: when the matrix is not positive definite in its precision; the upper triangle is then
            spoilt, the strict lower one untouched.
    """
    xp = array_namespace(matrix)
    a, n = matrix, len(matrix)
    index = xp.arange(n, device=a.device)
    a[index, index] = diagonal
    for start in reversed(range(0, n, BLOCK)):
        end = min(start + BLOCK, n)
        panel = a[:end, start:end] - a[:end, end:] @ a[start:end, end:].T
        upper = xp.triu(panel[start:, :])
        factor = _cholesky_backwards(upper + xp.triu(upper, k=1).T)
        a[start:end, start:end] = factor + xp.tril(a[start:end, start:end], k=-1)
        if start:
            a[:start, start:end] = panel[:start, :] @ xp.linalg.inv(factor).T  # M_ik = A_ik M_kk^-T


def _cholesky_backwards(block: Any) -> Any:
    """M, upper triangular, with M M^T = ``block``."""
    xp = array_namespace(block)
    try:
        return xp.flip(xp.linalg.cholesky(xp.flip(block)))
    except np.linalg.LinAlgError:
        raise
    except RuntimeError as error:  # torch's linear algebra error is not numpy's
        raise np.linalg.LinAlgError(str(error)) from error


def multiply_upper(rows: Any, upper: Any) -> Any:
    """``rows @ triu(upper)`` for ``rows`` (m, n) and ``upper`` (n, n), whose strict lower triangle is not read."""
    xp = array_namespace(rows)
    n = len(upper)
    out = xp.zeros_like(rows)
    for top in range(0, n, STRIP):
        bottom = min(top + STRIP, n)
        out[:, top:bottom] += rows[:, top:bottom] @ xp.triu(upper[top:bottom, top:bottom])
        out[:, bottom:] += rows[:, top:bottom] @ upper[top:bottom, bottom:]
    return out


def solve_factored_in_place(upper: Any, rhs: Any) -> None:
    """Overwrite ``rhs`` (n, m) with the solution Y of ``M M^T Y = rhs``, M the upper triangle of ``upper`` (n, n)."""
    xp = array_namespace(rhs)
    n = len(upper)
    starts = range(0, n, BLOCK)
    for start in reversed(starts):  # M Z = rhs
        end = min(start + BLOCK, n)
        known = upper[start:end, end:] @ rhs[end:, :]
        rhs[start:end, :] = xp.linalg.inv(xp.triu(upper[start:end, start:end])) @ (rhs[start:end, :] - known)
    for start in starts:  # M^T Y = Z
        end = min(start + BLOCK, n)
        known = upper[:start, start:end].T @ rhs[:start, :]
        rhs[start:end, :] = xp.linalg.inv(xp.triu(upper[start:end, start:end])).T @ (rhs[start:end, :] - known)


def mirror(matrix: Any, *, source: str) -> None:
    """Make ``matrix`` symmetric in place from its strict ``upper`` or ``lower`` triangle (the other is overwritten)."""
    xp = array_namespace(matrix)
    n = len(matrix)
    for top in range(0, n, STRIP):
        bottom = min(top + STRIP, n)
        corner = matrix[top:bottom, top:bottom]
        if source == "upper":
            matrix[top:bottom, top:bottom] = xp.triu(corner) + xp.triu(corner, k=1).T
            matrix[bottom:, top:bottom] = matrix[top:bottom, bottom:].T
        else:
            matrix[top:bottom, top:bottom] = xp.tril(corner) + xp.tril(corner, k=-1).T
            matrix[top:bottom, bottom:] = matrix[bottom:, top:bottom].T


def permute_symmetric(matrix: Any, order: Array) -> None:
    """Reorder rows and columns of ``matrix`` (n, n) in place: the result's [i, j] is the old [order[i], order[j]].

    Rows move along the permutation's cycles, columns strip by strip: no second matrix.
    """
    xp = array_namespace(matrix)
    placed = np.zeros(len(order), bool)
    for first in range(len(order)):
        if placed[first] or order[first] == first:
            continue
        kept = xp.asarray(matrix[first, :], copy=True)
        row = first
        while True:
            placed[row] = True
            source = int(order[row])
            if source == first:
                matrix[row, :] = kept
                break
            matrix[row, :] = matrix[source, :]
            row = source
    columns = xp.asarray(order, device=matrix.device)
    for top in range(0, len(matrix), STRIP):
        bottom = min(top + STRIP, len(matrix))
        matrix[top:bottom, :] = xp.take(matrix[top:bottom, :], columns, axis=1)
