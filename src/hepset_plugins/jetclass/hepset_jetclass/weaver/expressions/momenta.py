"""Four-momenta: numbers of them as formulas of their components, and distances."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from hepset_jetclass.weaver.expressions.forms import Form
from hepset_jetclass.weaver.expressions.trees import applied, with_parts
from hepset_jetclass.weaver.expressions.words import PROPERTIES, VECTORS


class Momenta(Form):
    """Translates attributes and methods of four-momenta."""

    def vector(self, node: ast.expr) -> dict[str, ast.expr] | None:
        """Return the components that a four-momentum was made of, or None."""
        seen: set[str] = set()
        while isinstance(node, ast.Name) and node.id in self.owner.new_variables:
            if node.id in seen:
                return None
            seen.add(node.id)
            key = f"new_variables.{node.id}"
            node = self.owner.parse(self.owner.new_variables[node.id], key)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return None
        roles = VECTORS.get(node.func.id)
        if roles is None:
            return None
        if len(node.args) != 4 or node.keywords:
            raise self.error(node, f"the components are {', '.join(roles)}")
        return {role: self.visit(part) for role, part in zip(roles, node.args, strict=True)}

    def property(self, node: ast.expr, parts: Mapping[str, ast.expr], name: str) -> ast.expr:
        """Write a number of a four-momentum as a formula of the components that it was made of."""
        if name in parts:
            return parts[name]
        if name not in PROPERTIES:
            raise self.error(node, f"of a four-momentum there are {', '.join(sorted(PROPERTIES))}")
        cartesian = "px" in parts
        momentum = "px, py, pz" if cartesian else "pt * cosh(eta), 0, 0"
        text = {
            "pt": "sqrt(px**2 + py**2)",
            "phi": "atan2(py, px)",
            "eta": "asinh(pz / sqrt(px**2 + py**2))",
            "mass": f"p4_mass({momentum}, energy)",
            "p": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "mag": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "px": "pt * cos(phi)",
            "py": "pt * sin(phi)",
            "pz": "pt * sinh(eta)",
            "energy": "sqrt((pt * cosh(eta))**2 + mass**2)",
            "rapidity": "0.5 * log((energy + pz) / (energy - pz))",
            "theta": "atan2(pt, pz)",
            "mass2": "energy**2 - (px**2 + py**2 + pz**2)" if cartesian else "energy**2 - p**2",
            "mt": "sqrt(energy**2 - pz**2)",
            "et": "energy * pt / p",
        }[name]

        def part(role: str) -> ast.expr:
            return self.property(node, parts, role)

        return with_parts(ast.parse(text, mode="eval").body, part)

    def distance(self, node: ast.Call, name: str, one: Mapping[str, ast.expr]) -> ast.expr:
        """Write ``a.deltaR(b)``, ``a.deltaphi(b)`` or ``a.deltaeta(b)``."""
        other = self.vector(node.args[0]) if len(node.args) == 1 else None
        if other is None:
            raise self.error(node, "the distance is to another four-momentum")
        eta = [self.property(node, parts, "eta") for parts in (one, other)]
        phi = [self.property(node, parts, "phi") for parts in (one, other)]
        if name == "deltaeta":
            return ast.BinOp(eta[0], ast.Sub(), eta[1])
        if name == "deltaphi":
            return applied("delta_phi", phi)
        return applied("delta_r", [eta[0], phi[0], eta[1], phi[1]])
