"""What calibration remembers of a linear group's inputs: X^T X, in the memory of one matrix.

It does not know where the inputs come from. Accumulation is in float32, in the order of the calls, so the same
inputs in the same pieces give the same bits on one instruction set.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from flyweight import kernels
from flyweight.compression.linear_algebra import factor_backwards_in_place, mirror, permute_symmetric
from flyweight.formats.base import Array, Compute

STRIP = 256  # rows of the Hessian that one product of another array library updates: bounds its temporary
TOKENS_AT_ONCE = 512  # that the kernel keeps in bfloat16, twice, while it multiplies them
DAMPING_STEP = 10.0
SMALLEST_DAMPING = 1e-4
LARGEST_DAMPING = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Factor:
    """``H + damping * mean(diag H) * I = M M^T`` with M upper triangular, rows and columns in ``order``.

    ``order`` None is the natural one. ``ridge`` is what was added to the diagonal. ``raised`` says that the asked
    damping did not suffice.
    """

    upper: Any  # (n, n); what lies below the diagonal is not M's
    order: Array | None
    damping: float
    ridge: float
    raised: bool


class InputStatistics:
    """X^T X of the inputs of linears that share them, for ``in_features`` inputs.

    The matrix is factored in its own memory: no inputs can come after the first :meth:`factor`, and a factor is gone
    once another one was asked for. Asking for the same one again is free.
    """

    def __init__(self, in_features: int, *, like: Any = None, compute: Compute = "float32") -> None:
        """``like`` is an array of the library, device and dtype to work in; None means numpy and float32.

        ``compute`` ``bfloat16`` (numpy only) rounds inputs to bfloat16, as the layers see them that compute in it.
        """
        if compute != "float32" and like is not None:
            raise ValueError("only the kernels round inputs")
        self._compute = compute
        self._is_native = like is None
        self.in_features = in_features
        self.tokens = 0
        self.cross: Any = None  # X^T targets, (in_features, out_features)
        if like is None:
            self._hessian: Any = np.zeros((in_features, in_features), np.float32)
        else:
            xp = array_namespace(like)
            self._hessian = xp.zeros((in_features, in_features), dtype=like.dtype, device=like.device)
        self._diagonal: Any = None
        self._factor: tuple[tuple[bytes, float], Factor] | None = None

    def add(self, x: Any, target: Any = None) -> None:
        """Take in inputs ``x`` (tokens, in_features), float32; only the upper triangle of X^T X is kept.

        ``target`` (tokens, out_features) is what the layer's output should be for these inputs, where that is not
        simply what its weight makes of them. It comes with every call or with none.
        """
        if self._factor is not None:
            raise ValueError("inputs came after the Hessian was factored")
        if (target is not None) != (self.cross is not None) and self.tokens:
            raise ValueError("targets come always or never")
        if target is not None:
            product = x.T @ target
            if self.cross is None:
                self.cross = product
            else:
                self.cross += product
        self.tokens += x.shape[0]
        self._diagonal = None
        if self._is_native:
            kernels.gram(x, self._hessian, compute="bfloat16" if self._compute == "bfloat16" else "float32")
            return
        for top in range(0, self.in_features, STRIP):
            bottom = min(top + STRIP, self.in_features)
            self._hessian[top:bottom, top:] += x[:, top:bottom].T @ x[:, top:]

    @property
    def diagonal(self) -> Any:
        """The diagonal of X^T X (in_features,), as it was before damping and factoring."""
        if self._diagonal is None:
            xp = array_namespace(self._hessian)
            self._diagonal = xp.asarray(xp.linalg.diagonal(self._hessian), copy=True)
        return self._diagonal

    @property
    def dead(self) -> Any:
        """Which inputs were zero for every token: boolean (in_features,)."""
        return self.diagonal == 0

    def factor(self, damping: float, order: Array | None = None) -> Factor:
        """Factor in place; damping is raised tenfold, up to 1, until the matrix is positive definite.

        Raises:
            numpy.linalg.LinAlgError: when inputs were not finite, or even damping 1 does not help.
        """
        key = (b"" if order is None else order.tobytes(), damping)
        diagonal = self.diagonal
        xp = array_namespace(diagonal)
        if self._factor is None:
            mirror(self._hessian, source="upper")
        elif self._factor[0] == key:
            return self._factor[1]
        else:  # the lower triangle still holds the Hessian, in the order of the last factor
            mirror(self._hessian, source="lower")
            if self._factor[1].order is not None:
                permute_symmetric(self._hessian, np.argsort(self._factor[1].order))
        if order is not None:
            permute_symmetric(self._hessian, order)
            diagonal = xp.take(diagonal, xp.asarray(order))
        # A dead input would stop the factorization; any positive entry will do, nothing depends on it.
        mean = float(xp.mean(diagonal)) or 1.0
        if not math.isfinite(mean):
            raise np.linalg.LinAlgError("the inputs are not finite")
        filled = xp.where(diagonal == 0, xp.full_like(diagonal, mean), diagonal)
        used = damping
        while True:
            try:
                factor_backwards_in_place(self._hessian, filled + used * mean)
                break
            except np.linalg.LinAlgError:
                if used >= LARGEST_DAMPING:
                    raise
                used = min(max(used * DAMPING_STEP, SMALLEST_DAMPING), LARGEST_DAMPING)
                mirror(self._hessian, source="lower")
        result = Factor(upper=self._hessian, order=order, damping=used, ridge=used * mean, raised=used > damping)
        self._factor = (key, result)
        return result
