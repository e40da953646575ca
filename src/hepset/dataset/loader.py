"""`Loader`: batches of tensors for training, straight from the shards.

The batch is the unit. Threads decode row groups into *windows* (the rows of a few row groups) and
gather the rows of each batch from them, one call per tensor. Which event is in which batch is
a function of seed and epoch alone (`hepset.dataset.order`), whatever the threads.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch.utils.data import IterableDataset

from hepset.dataset.batches import with_masks
from hepset.dataset.columns import ColumnLayout, mask_columns
from hepset.dataset.iteration import KEPT, Iteration
from hepset.dataset.order import RowSampler, count_batches
from hepset.dataset.similar_lengths import ObjectLimit
from hepset.dataset.tensors import Batch, batch_tensors, ids_of, reader_loader
from hepset.errors import ConfigurationError, DatasetError

if TYPE_CHECKING:
    from hepset.dataset.dataset import Split

__all__ = ["Loader", "batch_tensors", "ids_of", "reader_loader"]


class Loader(IterableDataset[Batch]):
    """Batches of a split, name → tensor with the dtype of the contract.

    Each iteration is one epoch; the next iteration is the next epoch, in another order where
    shuffled. One iteration at a time: a second ``iter`` ends the first. It may be given to
    ``torch.utils.data.DataLoader(loader, batch_size=None)``, but gains nothing from its processes.

    Every event is in exactly one batch of one rank, and every rank makes the same number of
    batches. Without `drop_last` the last batch is shorter (with several ranks, the last ones may
    be shorter by one event each). With it, events that fill no batch are left out of that epoch,
    other ones in every epoch where shuffled; a split smaller than a batch still makes one short
    batch.

    Args:
        split: What to read.
        batch_size: Events per batch and rank.
        seed: Seed of the shuffle.
        shuffle: Whether to shuffle. With ``cache="mmap"`` any order of all events is equally
            likely; without, shards, row groups and the rows of every `window` row groups are
            shuffled, which is as good because the events were shuffled over all shards before.
        columns: Names of tensors, masks come along; null = all of the contract.
        ids: Add ``ids``, int64 (event, 3): source, entry, sample; `ids_of` makes structured ids.
        threads: Decoder threads; 0 does everything in the calling thread.
        rank: Which part to read, of `world` parts.
        world: Number of parts.
        drop_last: Leave out events that fill no batch.
        cache: ``mmap`` expands the shards once to uncompressed files in the data set's ``.cache``.
        copy: Give every batch memory of its own. Without, memory is used again: a batch stays as
            it is until two further ones have been drawn.
        buffers: Batches in memory at a time; `buffers` − 2 are prepared ahead.
        pin_memory: Use page-locked memory, for copies to a GPU; only without `copy`.
        window: Row groups that are shuffled together; two windows are in memory at a time.
        sampling: Says how often each event is read in an epoch; null = once.
        trim: Give every stream as many slots as the longest event of the batch needs, not all of
            the contract's.
        by_length: Put events of similar length into one batch, and trim; only where shuffled.
        max_objects: Most objects of a batch, padding included; batches then have events of similar
            length, up to `batch_size` of them, and an event with more objects is alone. Needs any
            order of all events, so it sets ``cache="mmap"``; nothing is left out by `drop_last`.

    Attributes:
        rows: Events of an epoch, before `drop_last`.
        epoch: Number of the epoch that is read, or that the next iteration will read.
        wait_seconds: Time that the consumer has waited for batches so far.

    Raises:
        ConfigurationError: If an option has an impossible value.
        DatasetError: If there are fewer events than ranks.
        KeyError: If there is no such tensor.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        columns: Sequence[str] | None = None,
        ids: bool = False,
        threads: int = 1,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        cache: Literal["none", "mmap"] = "none",
        copy: bool = True,
        buffers: int = 6,
        pin_memory: bool = False,
        window: int = 4,
        sampling: RowSampler | None = None,
        trim: bool = False,
        by_length: bool = False,
        max_objects: int | None = None,
    ) -> None:
        smallest = {"batch_size": 1, "threads": 0, "world": 1, "buffers": KEPT + 1, "window": 1}
        smallest["max_objects"] = 1
        given = {
            "batch_size": batch_size,
            "max_objects": 1 if max_objects is None else max_objects,
            "threads": threads,
            "world": world,
            "buffers": buffers,
            "window": window,
        }
        for name, value in given.items():
            if value < smallest[name]:
                raise ConfigurationError(
                    f"loader: {name} = {value}, expected at least {smallest[name]}"
                )
        if not 0 <= rank < world:
            raise ConfigurationError(f"loader: rank {rank} is not one of {world} ranks")
        if seed < 0:
            raise ConfigurationError(f"loader: seed = {seed}, expected at least 0")
        if max_objects is not None and sampling is not None:
            raise ConfigurationError(
                "loader: max_objects and sampling do not go together: which lengths are drawn, and "
                "so the number of batches, differs from epoch to epoch"
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.ids = ids
        self.threads = threads
        self.rank = rank
        self.world = world
        self.drop_last = drop_last
        self.cache = cache if max_objects is None else "mmap"
        self.copy = copy
        self.buffers = buffers
        self.pin_memory = pin_memory and not copy
        self.window = window
        self.sampling = sampling
        self.max_objects = max_objects
        self.trim = trim or by_length or max_objects is not None
        self.by_length = by_length and shuffle and max_objects is None
        self.layouts = _chosen(split, columns)
        self.epoch = 0
        self.wait_seconds = 0.0
        self._consumed = 0
        self.rows = len(split) if sampling is None else sampling.events
        self.limit: ObjectLimit | None = None
        if max_objects is None:
            self._batches = count_batches(self.rows, batch_size, world=world, drop_last=drop_last)
        else:
            lengths = split.lengths(list(mask_columns(self.layouts)))
            self.limit = ObjectLimit.of(lengths, batch_size, max_objects, world)
            self._batches = len(self.limit.ends) // world
        self._current: weakref.ref[Iteration] | None = None

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return self._batches

    @property
    def events(self) -> int:
        """Number of events that all ranks read in an epoch."""
        if not self.drop_last or self.limit is not None:
            return self.rows
        return min(len(self) * self.batch_size * self.world, self.rows)

    def __iter__(self) -> Iterator[Batch]:
        """Read the epoch, from where `load_state_dict` has put it."""
        self.close()
        iteration = Iteration(self)
        self._current = weakref.ref(iteration)
        return iteration

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read this epoch from its beginning."""
        self.close()
        self.epoch = epoch
        self._consumed = 0

    def state_dict(self) -> dict[str, int]:
        """Return its position: the batches that were drawn, and what decides the order."""
        return {
            "epoch": self.epoch,
            "batches": self._consumed,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "world": self.world,
            "by_length": int(self.by_length),
            "max_objects": self.max_objects or 0,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration continue where a state was taken; what is skipped is not read.

        Raises:
            DatasetError: If the state was taken under another seed, batch size or number of ranks.
        """
        now = self.state_dict()
        for name in ("seed", "batch_size", "world", "by_length", "max_objects"):
            taken = state.get(name, 0)
            if taken != now[name]:
                raise DatasetError(
                    f"the loader's state was taken with {name} = {taken}, now it is {now[name]}: "
                    "the order of the batches differs"
                )
        self.close()
        self.epoch, self._consumed = state["epoch"], state["batches"]

    def close(self) -> None:
        """End the current iteration and its threads; the next one starts at the next batch."""
        iteration = self._current() if self._current is not None else None
        if iteration is not None:
            iteration.close()
        self._current = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the running iteration behind: another process starts its own."""
        return {**self.__dict__, "_current": None}

    def __repr__(self) -> str:
        """Return what is read and how."""
        return (
            f"<Loader of {self.split!r}: {len(self)} batches of {self.batch_size}, "
            f"{'shuffled' if self.shuffle else 'in order'}>"
        )

    def _drawn(self, batches: int) -> None:
        """Note how many batches of the epoch were drawn; after the last the epoch is over."""
        self._consumed = batches
        if batches == len(self):
            self.epoch, self._consumed = self.epoch + 1, 0


def _chosen(split: Split, columns: Sequence[str] | None) -> dict[str, ColumnLayout]:
    if columns is None:
        contract = split.dataset.contract
        columns = [name for name in split.layouts if name in contract or name.startswith("weight/")]
    layouts = with_masks(split.layouts, columns)
    for name, layout in layouts.items():
        if np.dtype(layout.dtype).kind not in "biufc":
            raise ConfigurationError(
                f"loader: {name} holds strings and cannot be a tensor; read it by "
                f"dataset.split({split.name!r}).read({name!r})"
            )
    return layouts
