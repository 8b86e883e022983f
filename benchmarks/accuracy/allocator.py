"""A model of torch's caching allocator, to see how much varying lengths leave unused.

c10/cuda/CUDACachingAllocator.cpp: sizes round to 512 bytes; requests above 1 MiB come from the
large pool, in segments of 20 MiB below 10 MiB and of the size rounded to 2 MiB above; the smallest
free block that is large enough is taken, and split if more than 1 MiB remains; neighbours merge
when freed; no segment goes back to the driver before the card is full.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment."""

    size: int
    address: int
    free: bool = False
    before: "Block | None" = None
    after: "Block | None" = None


_Key = tuple[int, int, Block]


def _order(item: _Key) -> tuple[int, int]:
    return item[:2]


class CachingAllocator:
    """Requests and releases of the large pool; small tensors are left out.

    >>> pool = CachingAllocator()
    >>> first = pool.request(30 * MIB)
    >>> pool.release(first)
    >>> pool.release(pool.request(31 * MIB))  # the 30 MiB that are free do not fit
    >>> pool.reserved // MIB
    62
    """

    def __init__(self) -> None:
        self.reserved = 0
        self.allocated = 0
        self.peak_allocated = 0
        self.stuck_at_peak = 0
        """Free bytes of segments that are in use elsewhere, when most was allocated."""
        self._next = 0
        self._free: list[_Key] = []

    def request(self, size: float) -> Block | None:
        """A block of at least this size; None for what the small pool serves."""
        wanted = -(-int(size) // 512) * 512
        if wanted <= MIB:
            return None
        block = self._take(wanted) or self._segment(wanted)
        if block.size - wanted > MIB:
            self._split(block, wanted)
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
            self.stuck_at_peak = sum(
                size for size, _, free in self._free if free.before or free.after
            )
        return block

    def release(self, block: Block | None) -> None:
        """Gives a block back, and merges it with free neighbours."""
        if block is None:
            return
        self.allocated -= block.size
        if block.before is not None and block.before.free:
            block = self._merge(block.before, block)
        if block.after is not None and block.after.free:
            self._forget(block.after)
            block = self._merge(block, block.after)
        block.free = True
        insort(self._free, (block.size, block.address, block), key=_order)

    def _take(self, wanted: int) -> Block | None:
        place = bisect_left(self._free, (wanted, -1), key=_order)
        if place == len(self._free):
            return None
        block = self._free.pop(place)[2]
        block.free = False
        return block

    def _segment(self, wanted: int) -> Block:
        size = 20 * MIB if wanted < 10 * MIB else -(-wanted // (2 * MIB)) * 2 * MIB
        block = Block(size, self._next)
        self._next += size
        self.reserved += size
        return block

    def _split(self, block: Block, wanted: int) -> None:
        rest = Block(block.size - wanted, block.address + wanted, True, block, block.after)
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = wanted, rest
        insort(self._free, (rest.size, rest.address, rest), key=_order)

    def _merge(self, left: Block, right: Block) -> Block:
        if left.free:
            self._forget(left)
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        return left

    def _forget(self, block: Block) -> None:
        self._free.pop(bisect_left(self._free, (block.size, block.address), key=_order))
        block.free = False
