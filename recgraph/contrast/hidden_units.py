"""Sums over hidden units for all pairs of two sides; no tensor of pairs and units is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recgraph.sparse.blocks import exponent_limit, refuse_second_derivative, row_blocks
from recgraph.sparse.device import is_accelerated

# Rows of a tile: it and its hidden unit stay in a core's cache. On an accelerator few and large kernels are better.
_ROWS_HOST, _ROWS_ACCELERATOR = 32, 4096
# More terms take longer than quotients, and so do the powers of columns where they serve fewer rows.
_MOST_TERMS, _FEWEST_ROWS = 15, 48


def tanh_sums(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """[n, M]: ``sum_h v_h tanh(x_ih + y_hj)`` of x [n, H], y [H, M], v [H]; differentiable once."""
    return _TanhSums.apply(x, y, v)  # type: ignore[no-untyped-call, no-any-return]


class _TanhSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        ctx.way, parts = _way(x, y, v)
        ctx.save_for_backward(*parts)
        return ctx.way(*parts).sums()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        refuse_second_derivative("a learned weight")
        return ctx.way(*ctx.saved_tensors).gradients(grad)  # type: ignore[no-any-return]


def _way(x: Tensor, y: Tensor, v: Tensor) -> tuple[Callable[..., _Units | _Series], tuple[Tensor, ...]]:
    """The fastest of those that are exact to rounding for x and y as large as these, and what it is made of.

    An accelerator is not asked how large: the host would wait, and tanh costs no more there than a quotient.
    """
    if is_accelerated(x):
        return _Units, (x, y, v)
    most_x, most_y = x.abs().amax(0), y.abs().amax(1)
    scale = torch.tanh(most_y)
    q = torch.tanh(most_x) * scale
    ratio, widest = float((q / (1 + (1 - q * q).sqrt())).amax()), float(scale.amax())
    eps = torch.finfo(x.dtype).eps
    if len(x) >= _FEWEST_ROWS:
        for n_terms in range(1, _MOST_TERMS + 1):
            # what the others add to a slope, which is more than they add to a value
            if widest**2 / 2 * n_terms * ratio ** (n_terms - 1) <= 2 * eps:
                scale = scale.clamp(min=eps)
                return partial(_Series, n_terms), (torch.tanh(x), torch.tanh(y).div_(scale[:, None]), v, scale)
    # e^-2x + e^2y and the inverse of its square are far from overflow and from subnormal numbers
    bounded = bool(torch.maximum(most_x, most_y).amax() <= exponent_limit(x.dtype) / 8)
    return _Quotients if bounded else _Units, (x, y, v)


class _Units:
    """One unit after the other, of x and y of any size."""

    def __init__(self, x: Tensor, y: Tensor, v: Tensor) -> None:
        self.x, self.y, self.v = x, y, v

    def sums(self) -> Tensor:
        """[n, M]."""
        x, y = self.x, self.y
        out = x.new_zeros(len(x), y.shape[1])
        for rows in _tiles(x):
            unit = torch.empty_like(out[rows])
            for h in range(len(y)):
                torch.add(x[rows, h, None], y[h], out=unit).tanh_()
                out[rows].addcmul_(unit, self.v[h])
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By x, y and v, given those by the sums."""
        x, y = self.x, self.y
        grad_x, grad_y, grad_v = torch.empty_like(x), torch.zeros_like(y), x.new_zeros(len(y))
        for rows in _tiles(x):
            part = grad[rows].contiguous()
            unit, slope = torch.empty_like(part), torch.empty_like(part)
            of_row, of_column = part.new_ones(part.shape[0]), part.new_ones(part.shape[1])
            for h in range(len(y)):
                torch.add(x[rows, h, None], y[h], out=unit).tanh_()
                grad_v[h] += torch.dot(unit.view(-1), part.view(-1))
                # the derivative of tanh is 1 - tanh^2
                torch.addcmul(part, torch.mul(unit, part, out=slope), unit, value=-1, out=slope)
                grad_x[rows, h] = slope @ of_column
                grad_y[h] += of_row @ slope
        return grad_x * self.v, grad_y * self.v[:, None], grad_v


class _Quotients(_Units):
    """As ``tanh(x + y) = 1 - 2 g / (f + g)`` with ``g = e^-2x`` and ``f = e^2y``: a pair takes a sum and a quotient.

    Exponentials are of rows and columns alone: a ninth of tanh's time.
    """

    def sums(self) -> Tensor:
        f, g = torch.exp(2 * self.y), torch.exp(-2 * self.x)
        out = f.new_empty(len(g), f.shape[1]).fill_(self.v.sum())
        scaled = -2 * self.v * g
        for rows in _tiles(g):
            unit = torch.empty_like(out[rows])
            for h in range(len(f)):
                torch.add(f[h], g[rows, h, None], out=unit)
                out[rows].addcdiv_(scaled[rows, h, None], unit)
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # with s = grad / (f + g)^2 and q = g / (f + g): grad q (1 - q) = s f g and grad q = s f g + s g^2
        f, g = torch.exp(2 * self.y), torch.exp(-2 * self.x)
        along = g.t().contiguous()
        by_f, by_one, grad_y = torch.empty_like(g), torch.empty_like(g), torch.zeros_like(f)
        for rows in _tiles(g):
            part = grad[rows].contiguous()
            unit, of_column = torch.empty_like(part), part.new_ones(part.shape[1])
            for h in range(len(f)):
                torch.add(f[h], g[rows, h, None], out=unit).square_()
                torch.div(part, unit, out=unit)
                by_f[rows, h], by_one[rows, h] = unit @ f[h], unit @ of_column
                grad_y[h].addmv_(unit.t(), along[h, rows])
        by_f *= g
        grad_v = grad.sum() - 2 * (by_f + by_one * g * g).sum(0)
        return 4 * self.v * by_f, 4 * self.v[:, None] * f * grad_y, grad_v


class _Series:
    """As a product of two matrices, L [n, 1 + K H] of x and R [1 + K H, M] of y, where x and y are small.

    With ``r = tanh x``, ``t = tanh y / scale`` in [-1, 1], ``q = scale r``, ``s = sqrt(1 - q^2)`` and
    ``z = -q / (1 + s)``

        ``tanh(x + y) = (r + scale t) / (1 + q t) = c + 2 scale (1 - r^2) / (s + s^2) sum_{k >= 1} z^(k - 1) T_k(t)``,

    T_k the Chebyshev polynomials, of which the first K are enough: about 6 in float32 for rows of length 1 and a first
    layer as torch draws it. R has the powers of t, and L their coefficients; that of the power 0 is r, as y = 0 shows.
    """

    def __init__(self, n_terms: int, r: Tensor, t: Tensor, v: Tensor, scale: Tensor) -> None:
        self.r, self.t, self.v = r, t, v
        self.q = r * scale
        self.s = (1 - self.q * self.q).sqrt_()
        z = -self.q / (1 + self.s)
        self.terms = r.new_empty(n_terms, *r.shape)
        torch.div(2 * scale * (1 - r * r), self.s + self.s * self.s, out=self.terms[0])
        for k in range(1, n_terms):
            torch.mul(self.terms[k - 1], z, out=self.terms[k])
        self.chebyshev = _chebyshev(n_terms).to(r)
        self.by_power = self._by_power(self.terms)

    def sums(self) -> Tensor:
        left = torch.cat([(self.r @ self.v)[:, None], *(self.by_power * self.v)], 1)
        out = left.new_empty(len(left), self.t.shape[1])
        for columns in self._tiles():
            torch.mm(left, self._right(columns), out=out[:, columns])
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_units = len(self.v)
        # the derivatives of the coefficients by x; that of tanh by y is the same as by x
        slopes = self.terms * (self.terms[0] * self.q * (0.5 / self.s + 1) - 2 * self.r)
        for k in range(1, len(slopes)):
            slopes[k].addcmul_(self.terms[0], self.terms[k - 1], value=-k / 2)
        left = torch.cat([(1 - self.r * self.r) * self.v, *(self._by_power(slopes) * self.v)], 1)
        sums = torch.zeros_like(left[:, n_units - 1 :])
        grad_y = torch.empty_like(self.t)
        for columns in self._tiles():
            right, part = self._right(columns), grad[:, columns]
            sums.addmm_(part, right.t())
            of_powers = torch.mm(left.t(), part)
            of_powers[n_units:] *= right[1:]
            torch.sum(of_powers.view(-1, n_units, right.shape[1]), 0, out=grad_y[:, columns])
        of_all, of_powers = sums[:, :1], sums[:, 1:].view(len(left), -1, n_units).transpose(0, 1)
        slopes = left.view(len(left), -1, n_units).transpose(0, 1)
        grad_x = slopes[0] * of_all + (slopes[1:] * of_powers).sum(0)
        return grad_x, grad_y, (self.r * of_all).sum(0) + (self.by_power * of_powers).sum((0, 1))

    def _by_power(self, terms: Tensor) -> Tensor:
        """[K, n, H]: the coefficients of the powers from 1 on, of those of the polynomials."""
        return (self.chebyshev @ terms.flatten(1)).view(terms.shape)

    def _right(self, columns: slice) -> Tensor:
        t = self.t[:, columns]
        right = t.new_empty(1 + len(self.terms) * len(t), t.shape[1])
        right[0] = 1
        powers = right[1:].view(-1, *t.shape)
        powers[0] = t
        for k in range(1, len(powers)):
            torch.mul(powers[k - 1], t, out=powers[k])
        return right

    def _tiles(self) -> Iterator[slice]:
        """Columns whose powers take the memory of a block."""
        return row_blocks(self.t.shape[1], (1 + len(self.terms)) * len(self.t), self.t)


def _chebyshev(degree: int) -> Tensor:
    """[degree, degree] float64: the coefficients of the powers 1, 2, ... in the polynomials T_1, T_2, ..."""
    polynomials = torch.eye(1 + degree, dtype=torch.float64)
    for k in range(2, 1 + degree):
        polynomials[k] = 2 * polynomials[k - 1].roll(1) - polynomials[k - 2]
    return polynomials[1:, 1:].t()


def _tiles(x: Tensor) -> list[slice]:
    step = _ROWS_HOST if x.is_cpu else _ROWS_ACCELERATOR
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]
