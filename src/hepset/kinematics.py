"""Four-momenta and angles, for numpy arrays and torch tensors alike.

A four-momentum is always ``(px, py, pz, E)`` along the last axis. Momenta, masses and energies
share one unit (GeV in hepset's own event files); angles are in radian. Every function works on
numpy arrays and on torch tensors and answers with the kind it was given; it has no
data-dependent control flow, so that the torch form can be exported to ONNX. torch itself is never
imported here.

Zero vectors, as found in padded slots, give 0 and a zero gradient, never NaN. Pseudorapidities
are limited to ``|eta| <= ETA_LIMIT``, also on the beam axis, where they would be infinite.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ETA_LIMIT",
    "P4_COMPONENTS",
    "delta_phi",
    "delta_r",
    "eta_of",
    "invariant_mass",
    "mass_of",
    "p4_from_pt_eta_phi_energy",
    "p4_from_pt_eta_phi_mass",
    "p4_from_pt_eta_sin_cos_energy",
    "p4_from_pt_eta_sin_cos_mass",
    "p4_from_px_py_pz_energy",
    "phi_of",
    "pt_of",
    "rapidity_of",
    "sum_p4",
    "wrap_phi",
]

ArrayT = TypeVar("ArrayT", "np.ndarray[Any, Any]", "Tensor")
"""A numpy array or a torch tensor."""

_Array: TypeAlias = Any
_Momentum: TypeAlias = tuple[_Array, _Array, _Array]
_Namespace: TypeAlias = Any

P4_COMPONENTS = ("px", "py", "pz", "energy")
"""Order of the components along the last axis of a four-momentum."""

ETA_LIMIT = 30.0
"""Largest absolute pseudorapidity and rapidity that is used or returned."""

_SINH_LIMIT = math.sinh(ETA_LIMIT)


def p4_from_pt_eta_phi_mass(
    pt: ArrayT, eta: ArrayT, phi: ArrayT, mass: ArrayT, *, mask: ArrayT | None = None
) -> ArrayT:
    """Build four-momenta from transverse momentum, pseudorapidity, azimuth and mass.

    A negative mass stands for a space-like vector, ``E^2 = p^2 - m^2``, as in ROOT.

    Args:
        pt: Transverse momentum, any shape.
        eta: Pseudorapidity, same shape; limited to ``ETA_LIMIT``.
        phi: Azimuth [rad], same shape.
        mass: Mass in the unit of `pt`, same shape.
        mask: True where the object is real, same shape; other slots become exactly 0, whatever
            they held.

    Returns:
        ``(px, py, pz, E)``, shape of the inputs and 4.
    """
    xp = _namespace(pt)
    pt, eta, phi, mass = _real(xp, mask, pt, eta, phi, mass)
    out: ArrayT = _with_mass(xp, _momentum(xp, pt, eta, xp.sin(phi), xp.cos(phi)), mass)
    return out


def p4_from_pt_eta_phi_energy(
    pt: ArrayT, eta: ArrayT, phi: ArrayT, energy: ArrayT, *, mask: ArrayT | None = None
) -> ArrayT:
    """Build four-momenta from transverse momentum, pseudorapidity, azimuth and energy.

    Args:
        pt: Transverse momentum, any shape.
        eta: Pseudorapidity, same shape; limited to ``ETA_LIMIT``.
        phi: Azimuth [rad], same shape.
        energy: Energy in the unit of `pt`, same shape; used as it is.
        mask: True where the object is real, same shape; other slots become exactly 0.

    Returns:
        ``(px, py, pz, E)``, shape of the inputs and 4.
    """
    xp = _namespace(pt)
    pt, eta, phi, energy = _real(xp, mask, pt, eta, phi, energy)
    out: ArrayT = _with_energy(xp, _momentum(xp, pt, eta, xp.sin(phi), xp.cos(phi)), energy)
    return out


def p4_from_pt_eta_sin_cos_mass(
    pt: ArrayT,
    eta: ArrayT,
    sin_phi: ArrayT,
    cos_phi: ArrayT,
    mass: ArrayT,
    *,
    mask: ArrayT | None = None,
) -> ArrayT:
    """Build four-momenta where the azimuth is given by its sine and cosine.

    Sine and cosine are used as they are: no normalisation to the unit circle. Otherwise as
    `p4_from_pt_eta_phi_mass`.
    """
    xp = _namespace(pt)
    pt, eta, sin_phi, cos_phi, mass = _real(xp, mask, pt, eta, sin_phi, cos_phi, mass)
    out: ArrayT = _with_mass(xp, _momentum(xp, pt, eta, sin_phi, cos_phi), mass)
    return out


def p4_from_pt_eta_sin_cos_energy(
    pt: ArrayT,
    eta: ArrayT,
    sin_phi: ArrayT,
    cos_phi: ArrayT,
    energy: ArrayT,
    *,
    mask: ArrayT | None = None,
) -> ArrayT:
    """Build four-momenta from energy, with the azimuth given by its sine and cosine.

    Sine and cosine are used as they are: no normalisation to the unit circle. Otherwise as
    `p4_from_pt_eta_phi_energy`.
    """
    xp = _namespace(pt)
    pt, eta, sin_phi, cos_phi, energy = _real(xp, mask, pt, eta, sin_phi, cos_phi, energy)
    out: ArrayT = _with_energy(xp, _momentum(xp, pt, eta, sin_phi, cos_phi), energy)
    return out


def p4_from_px_py_pz_energy(
    px: ArrayT, py: ArrayT, pz: ArrayT, energy: ArrayT, *, mask: ArrayT | None = None
) -> ArrayT:
    """Stack Cartesian components, same shape each, into ``(px, py, pz, E)``.

    Slots where `mask` is False become exactly 0, whatever they held.
    """
    xp = _namespace(px)
    out: ArrayT = xp.stack(_real(xp, mask, px, py, pz, energy), -1)
    return out


def pt_of(p4: ArrayT) -> ArrayT:
    """Transverse momentum of four-momenta ``(..., 4)``, shape ``(...)``, in their unit."""
    xp = _namespace(p4)
    out: ArrayT = _sqrt(xp, p4[..., 0] * p4[..., 0] + p4[..., 1] * p4[..., 1])
    return out


def phi_of(p4: ArrayT) -> ArrayT:
    """Azimuth of four-momenta ``(..., 4)`` in [-pi, pi), shape ``(...)``; 0 where pt is 0."""
    xp = _namespace(p4)
    px, py = p4[..., 0], p4[..., 1]
    nowhere = (px == 0) & (py == 0)
    phi = xp.arctan2(xp.where(nowhere, 0.0, py), xp.where(nowhere, 1.0, px))
    out: ArrayT = xp.where(phi >= math.pi, -math.pi, phi)
    return out


def eta_of(p4: ArrayT) -> ArrayT:
    """Pseudorapidity of four-momenta ``(..., 4)``, shape ``(...)``.

    Within ``+-ETA_LIMIT``, which vectors on the beam axis get; 0 for the zero vector.
    """
    xp = _namespace(p4)
    out: ArrayT = _arcsinh_ratio(xp, p4[..., 2], pt_of(p4))
    return out


def rapidity_of(p4: ArrayT) -> ArrayT:
    """Rapidity of four-momenta ``(..., 4)``, shape ``(...)``, within ``+-ETA_LIMIT``.

    ``arcsinh(pz / mT)`` with ``mT^2 = pt^2 + max(m^2, 0)``: a space-like vector, which rounding
    can give for light objects, is taken as massless.
    """
    xp = _namespace(p4)
    pt2 = p4[..., 0] * p4[..., 0] + p4[..., 1] * p4[..., 1]
    m2 = _mass_squared(p4)
    transverse_mass = _sqrt(xp, pt2 + xp.where(m2 > 0, m2, 0.0))
    out: ArrayT = _arcsinh_ratio(xp, p4[..., 2], transverse_mass)
    return out


def mass_of(p4: ArrayT) -> ArrayT:
    """Mass of four-momenta ``(..., 4)``, shape ``(...)``, in their unit.

    A negative squared mass gives 0. In float32 the mass of a light object at energy E is only
    known to about ``3e-4 E``; convert to float64 where that matters.
    """
    xp = _namespace(p4)
    out: ArrayT = _sqrt(xp, _mass_squared(p4))
    return out


def sum_p4(p4: ArrayT, mask: ArrayT | None = None) -> ArrayT:
    """Sum the four-momenta ``(..., object, 4)`` of the real objects.

    Args:
        p4: ``(px, py, pz, E)``, shape ``(..., object, 4)``.
        mask: True where the object is real, shape ``(..., object)``; all are real without it.

    Returns:
        The sum, shape ``(..., 4)``; zero where there is no real object.
    """
    xp = _namespace(p4)
    real = p4 if mask is None else xp.where(mask[..., None], p4, 0.0)
    out: ArrayT = real.sum(-2)
    return out


def invariant_mass(p4: ArrayT, mask: ArrayT | None = None) -> ArrayT:
    """Mass of the sum of the real objects of each event, clamped at 0.

    Args:
        p4: ``(px, py, pz, E)``, shape ``(..., object, 4)``.
        mask: True where the object is real, shape ``(..., object)``; all are real without it.

    Returns:
        Mass in the unit of `p4`, shape ``(...)``; 0 where there is no real object.
    """
    return mass_of(sum_p4(p4, mask))


def wrap_phi(phi: ArrayT) -> ArrayT:
    """Bring azimuths [rad] into [-pi, pi); values already there are returned unchanged."""
    xp = _namespace(phi)
    wrapped = xp.remainder(phi + math.pi, 2 * math.pi) - math.pi
    # Rounding can turn a value just below -pi into +pi.
    wrapped = xp.where(wrapped >= math.pi, -math.pi, wrapped)
    out: ArrayT = xp.where((phi >= -math.pi) & (phi < math.pi), phi, wrapped)
    return out


def delta_phi(first: ArrayT, second: ArrayT) -> ArrayT:
    """Azimuth of the first seen from the second, in [-pi, pi); shapes broadcast."""
    return wrap_phi(first - second)


def delta_r(first_eta: ArrayT, first_phi: ArrayT, second_eta: ArrayT, second_phi: ArrayT) -> ArrayT:
    """Angular distance ``sqrt(d_eta^2 + d_phi^2)``; shapes broadcast.

    The first coordinate may be pseudorapidity or rapidity, the same for both objects.
    """
    xp = _namespace(first_eta)
    d_eta = first_eta - second_eta
    d_phi = delta_phi(first_phi, second_phi)
    out: ArrayT = _sqrt(xp, d_eta * d_eta + d_phi * d_phi)
    return out


def _namespace(array: object) -> _Namespace:
    """Return numpy or torch, whichever the array belongs to."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return torch
    return np


def _real(xp: _Namespace, mask: _Array, *arrays: _Array) -> list[_Array]:
    """Zero the padded slots before any arithmetic, so that nothing in them can spread."""
    if mask is None:
        return list(arrays)
    return [xp.where(mask, array, 0.0) for array in arrays]


def _with_mass(xp: _Namespace, momentum: _Momentum, mass: _Array) -> _Array:
    px, py, pz = momentum
    energy = _sqrt(xp, px * px + py * py + pz * pz + mass * abs(mass))
    return _with_energy(xp, momentum, energy)


def _with_energy(xp: _Namespace, momentum: _Momentum, energy: _Array) -> _Array:
    px, py, pz = momentum
    return xp.stack([px, py, pz, energy], -1)


def _momentum(
    xp: _Namespace, pt: _Array, eta: _Array, sin_phi: _Array, cos_phi: _Array
) -> _Momentum:
    # A padding value such as eta = -999 would overflow sinh, and 0 * inf is NaN.
    eta = _within(xp, eta, ETA_LIMIT)
    return pt * cos_phi, pt * sin_phi, pt * _sinh(xp, eta)


def _mass_squared(p4: _Array) -> _Array:
    px, py, pz, energy = p4[..., 0], p4[..., 1], p4[..., 2], p4[..., 3]
    return energy * energy - (px * px + py * py + pz * pz)


def _arcsinh_ratio(xp: _Namespace, numerator: _Array, denominator: _Array) -> _Array:
    on_axis = denominator <= abs(numerator) / _SINH_LIMIT
    ratio = numerator / xp.where(on_axis, 1.0, denominator)
    at_limit = xp.sign(numerator) * ETA_LIMIT
    return xp.where(on_axis, at_limit, xp.arcsinh(xp.where(on_axis, 0.0, ratio)))


def _within(xp: _Namespace, array: _Array, limit: float) -> _Array:
    array = xp.where(array > limit, limit, array)
    return xp.where(array < -limit, -limit, array)


def _sinh(xp: _Namespace, array: _Array) -> _Array:
    """Hyperbolic sine; in torch's float64 by exponentials, as ONNX Runtime has no other."""
    if xp is np or array.dtype != xp.float64:
        return xp.sinh(array)
    return 0.5 * (xp.exp(array) - xp.exp(-array))


def _sqrt(xp: _Namespace, square: _Array) -> _Array:
    """Square root, with value and gradient 0 where the square is not positive."""
    positive = square > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, square, 1.0)), 0.0)
