"""Modules under their former names: each import gives the module of today, with a deprecation.

``docs/reference/versions.md`` says how long a former name works.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "hepset.dataset.expanded": "hepset.dataset.mmap_cache",
    "hepset.dataset.export": "hepset.dataset.as_parquet",
    "hepset.dataset.pool": "hepset.dataset.event_buffer",
    "hepset.inference.displays": "hepset.evaluate.displays",
    "hepset.inference.evaluate": "hepset.evaluate.evaluate",
    "hepset.inference.examples": "hepset.export.examples",
    "hepset.inference.headline": "hepset.report.summary",
    "hepset.inference.history": "hepset.report.history",
    "hepset.inference.judgement": "hepset.evaluate.result",
    "hepset.inference.layouts": "hepset.export.layouts",
    "hepset.inference.load": "hepset.model.load",
    "hepset.inference.membership": "hepset.predict.membership",
    "hepset.inference.metadata": "hepset.model.onnx_metadata",
    "hepset.inference.numbers": "hepset.numbers",
    "hepset.inference.onnx": "hepset.export.onnx",
    "hepset.inference.page": "hepset.report.page",
    "hepset.inference.predict": "hepset.predict.predict",
    "hepset.inference.predictions": "hepset.predict.predictions",
    "hepset.inference.quantities": "hepset.evaluate.columns",
    "hepset.inference.report": "hepset.report.report",
    "hepset.inference.runtime": "hepset.model.onnx_model",
    "hepset.inference.save": "hepset.model.save",
    "hepset.inference.sculpting": "hepset.evaluate.sculpting",
    "hepset.inference.simplify": "hepset.export.simplify",
    "hepset.inference.spectra": "hepset.evaluate.spectra",
    "hepset.inference.variations": "hepset.evaluate.variations",
    "hepset.inputs": "hepset.model.inputs",
    "hepset.nn.exported": "hepset.nn.graph_rows",
    "hepset.nn.exporting": "hepset.nn.export_mode",
    "hepset.nn.linear": "hepset.nn.onednn",
    "hepset.prepare.compiler": "hepset.expressions.compiler",
    "hepset.prepare.convert": "hepset.convert.convert",
    "hepset.prepare.derivations": "hepset.events.derivations",
    "hepset.prepare.derive": "hepset.events.derive",
    "hepset.prepare.engines": "hepset.convert.engines",
    "hepset.prepare.exact": "hepset.convert.exact_sums",
    "hepset.prepare.expressions": "hepset.expressions.language",
    "hepset.prepare.functions": "hepset.expressions.functions",
    "hepset.prepare.outcome": "hepset.convert.records",
    "hepset.prepare.plan": "hepset.convert.plan",
    "hepset.prepare.quantiles": "hepset.convert.quantiles",
    "hepset.prepare.reading": "hepset.convert.reading",
    "hepset.prepare.rows": "hepset.events.rows",
    "hepset.prepare.scope": "hepset.expressions.scope",
    "hepset.prepare.select": "hepset.events.select",
    "hepset.prepare.slots": "hepset.events.slots",
    "hepset.prepare.split": "hepset.events.split",
    "hepset.prepare.tasks": "hepset.convert.tasks",
    "hepset.prepare.threads": "hepset.convert.worker_threads",
    "hepset.run.checking": "hepset.run.preflight",
    "hepset.sampling.learnt": "hepset.sampling.cache",
    "hepset.training.learnable": "hepset.training.preflight",
    "hepset.training.memory": "hepset.training.malloc",
    "hepset.training.start": "hepset.training.warm_start",
    "hepset.transforms": "hepset.model.input_transform",
}
"""Former name of a module to the name it has now."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "hepset.inference": (
        "hepset.evaluate",
        "hepset.export",
        "hepset.model",
        "hepset.predict",
        "hepset.report",
    ),
    "hepset.prepare": ("hepset.convert", "hepset.events.derive"),
}
"""Former package to the packages that hold its public names now."""


class _Former(Loader, MetaPathFinder):
    """Finds former names, after everything else has failed to."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name, else None."""
        del path, target
        if fullname in PACKAGES:
            return ModuleSpec(fullname, self, is_package=True)
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module of today, or a package whose names are found where they are now."""
        if spec.name in MODULES:
            now = MODULES[spec.name]
            _warn(spec.name, now)
            # The import system is about to overwrite the spec; `exec_module` puts it back.
            module = importlib.import_module(now)
            self._spec = module.__spec__
            return module
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave a module of today as it is: it has been imported."""
        if not isinstance(module, _Package):
            module.__spec__ = self._spec


class _Package(ModuleType):
    """A former package."""

    def __getattr__(self, name: str) -> object:
        if not name.startswith("__"):
            for now in PACKAGES[self.__name__]:
                found = getattr(importlib.import_module(now), name, None)
                if found is not None:
                    _warn(f"{self.__name__}.{name}", f"{now}.{name}")
                    return found
        message = f"module {self.__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


def _warn(former: str, now: str) -> None:
    warnings.warn(f"{former} is now {now}", DeprecationWarning, stacklevel=4)


def add(modules: Mapping[str, str], packages: Mapping[str, tuple[str, ...]]) -> None:
    """Add the former names of a plugin's modules and packages, see `MODULES` and `PACKAGES`."""
    MODULES.update(modules)
    PACKAGES.update(packages)


def install() -> None:
    """Let former names be imported."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.append(_Former())
