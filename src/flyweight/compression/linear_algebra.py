"""The one factorization GPTQ needs, blocked and in place: U upper triangular with inverse(H) = U^T U.

The usual route (Cholesky, inverse from Cholesky, Cholesky of that) takes three passes and two copies. Factoring
from the last column backwards gives H = M M^T with M upper triangular, hence inverse(H) = (M^-1)^T (M^-1) and
U = M^-1: one factorization and one triangular inverse, in the memory of H itself plus one strip. The work is
matrix products of numpy's BLAS; only blocks of ``BLOCK`` are factored one by one.
"""

from typing import Any

import numpy as np

FloatMatrix = np.ndarray[Any, np.dtype[np.floating[Any]]]

BLOCK = 128
STRIP = 1024


def inverse_cholesky_in_place(hessian: FloatMatrix) -> FloatMatrix:
    """Overwrite a symmetric positive definite (n, n) matrix with U, upper triangular, inverse(hessian) = U^T U.

    Only the upper triangle of ``hessian`` is read. The result is the argument itself, zeros below the diagonal.
    Float32 needs n^2 * 4 bytes plus a strip of n * 4096 bytes.

    Raises:
        numpy.linalg.LinAlgError: when the matrix is not positive definite in its precision; it is then spoilt.
    """
    _factor_backwards(hessian)
    _invert_upper(hessian)
    return hessian


def _factor_backwards(a: FloatMatrix) -> None:
    """Overwrite the upper triangle of ``a`` with M, upper triangular, a = M M^T."""
    for start in reversed(range(0, len(a), BLOCK)):
        end = min(start + BLOCK, len(a))
        block = np.triu(a[start:end, start:end])
        block = block + np.triu(block, 1).T
        factor = np.ascontiguousarray(np.linalg.cholesky(block[::-1, ::-1])[::-1, ::-1])
        a[start:end, start:end] = factor
        if start == 0:
            break
        # Rows above: M_ik = A_ik M_kk^-T, then what they explain is taken from the part still to be factored.
        panel = a[:start, start:end] @ np.linalg.inv(factor).T
        a[:start, start:end] = panel
        for top in range(0, start, STRIP):
            bottom = min(top + STRIP, start)
            a[top:bottom, top:start] -= panel[top:bottom] @ panel[top:start].T


def _invert_upper(m: FloatMatrix) -> None:
    """Overwrite upper triangular ``m`` with its inverse and its strictly lower part with zeros."""
    for start in range(0, len(m), BLOCK):
        end = min(start + BLOCK, len(m))
        corner = np.linalg.inv(np.triu(m[start:end, start:end]))
        m[start:end, start:end] = np.triu(corner)
        column = m[:start, start:end] @ -corner
        for top in range(0, start, STRIP):
            bottom = min(top + STRIP, start)
            m[top:bottom, start:end] = m[top:bottom, top:start] @ column[top:]
        m[end:, start:end] = 0.0
