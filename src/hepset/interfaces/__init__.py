"""The abstract parts that plugins implement.

`Backbone` and `Head` are torch modules and are imported from their own modules, so that readers and
writers load without torch.
"""

from __future__ import annotations

from hepset.interfaces.component import ComponentConfig, parse_options
from hepset.interfaces.dialect import Description, Dialect
from hepset.interfaces.engine import Engine, EngineConfig
from hepset.interfaces.reader import (
    Chunk,
    FileReaderConfig,
    Reader,
    ReaderConfig,
    Sample,
    Source,
    expand_files,
    named_group,
)
from hepset.interfaces.writer import Writer, WriterConfig

__all__ = [
    "Chunk",
    "ComponentConfig",
    "Description",
    "Dialect",
    "Engine",
    "EngineConfig",
    "FileReaderConfig",
    "Reader",
    "ReaderConfig",
    "Sample",
    "Source",
    "Writer",
    "WriterConfig",
    "expand_files",
    "named_group",
    "parse_options",
]
