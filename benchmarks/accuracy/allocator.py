"""A model of torch's caching allocator, to see how much varying lengths leave unused.

c10/cuda/CUDACachingAllocator.cpp: sizes round to 512 bytes; requests above 1 MiB come from the
large pool, in segments of 20 MiB below 10 MiB and of the size rounded to 2 MiB above; the smallest
free block that is large enough is taken, and split if more than 1 MiB remains; neighbours merge
when freed; no segment goes back to the driver.
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


class CachingAllocator:
    """Requests and releases of the large pool; small tensors are left out."""

    def __init__(self) -> None:
        self.reserved = 0
        self.allocated = 0
        self.peak_allocated = 0
        self._next = 0
        self._free: list[tuple[int, int, Block]] = []

    def request(self, size: float) -> Block | None:
        """A block of at least this size; None for what the small pool serves."""
        wanted = -(-int(size) // 512) * 512
        if wanted <= MIB:
            return None
        block = self._take(wanted) or self._segment(wanted)
        if block.size - wanted > MIB:
            self._split(block, wanted)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def release(self, block: Block | None) -> None:
        """Gives a block back, and merges it with free neighbours."""
        if block is None:
            return
        self.allocated -= block.size
        if block.before is not None and block.before.free:
            self._merge(block.before, block)
            block = block.before
            self._forget(block, block.size)
        if block.after is not None and block.after.free:
            self._forget_exact(block.after)
            self._merge(block, block.after)
        block.free = True
        insort(self._free, (block.size, block.address, block), key=lambda item: item[:2])

    def _take(self, wanted: int) -> Block | None:
        place = bisect_left(self._free, (wanted, -1), key=lambda item: item[:2])
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
        insort(self._free, (rest.size, rest.address, rest), key=lambda item: item[:2])

    def _merge(self, left: Block, right: Block) -> None:
        if left.free:
            self._forget_exact(left)
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left

    def _forget(self, block: Block, size: int) -> None:
        """Nothing to do: a merged block has left the list before it grew."""
        del block, size

    def _forget_exact(self, block: Block) -> None:
        place = bisect_left(self._free, (block.size, block.address), key=lambda item: item[:2])
        self._free.pop(place)
        block.free = False
