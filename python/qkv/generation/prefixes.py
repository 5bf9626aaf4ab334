"""Pages of texts that were read, found again by their tokens."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qkv import _ext

NO_PAGE = -1
_TOKEN_BYTES = 4


@dataclass(eq=False)
class _Node:
    """A page behind those of its ancestors.

    Attributes:
        parent: None for a root, and for a node that is no longer in the tree.
        tokens: of the page, 4 bytes each; fewer than a page has only where nothing comes behind it.
        page: NO_PAGE when its keys and values are gone, and only what lies behind it is still there.
        order: the keys of `children`, sorted: the one with the longest common beginning with some tokens stands
            beside the place where they would be put.
    """

    parent: _Node | None
    tokens: bytes
    page: int = NO_PAGE
    children: dict[bytes, _Node] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)


@dataclass
class Place:
    """How far the pages of a text that grows are in the tree: the node of its last whole page there, and its number."""

    node: _Node | None = None
    pages: int = 0


@dataclass(frozen=True)
class Match:
    """
    Attributes:
        pages: that hold the first positions of a text, NO_PAGE where no query looks any more.
        positions: how many. The last page is shared by a text that goes on differently if they do not fill it.
    """

    pages: list[int]
    positions: int


class PrefixIndex:
    """A tree of pages for each class of rotary angles; the path from the root to a page is the text that it holds. It
    has a reference of its own to every page in it. Not for more than one thread at a time."""

    def __init__(self, cache: _ext.KVCache, reach: int | None) -> None:
        """`reach`: see `_ext.Program.reach`."""
        self._cache = cache
        self._reach = reach
        self._roots: dict[int, _Node] = {}
        # Nodes that have a page, in the order in which to give them up: those used longest ago first, and of one path
        # the last page first.
        self._used: OrderedDict[_Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    @property
    def evictable(self) -> int:
        """How many pages only the index holds."""
        return sum(self._cache.references(node.page) == 1 for node in self._used)

    def find(self, ids: Sequence[int], rotary_class: int) -> Match:
        """The longest beginning of `ids` whose keys and values are there. No references are taken."""
        text = array("i", ids).tobytes()
        node = self._roots.get(rotary_class)
        path: list[_Node] = []
        best = best_pages = 0  # positions found
        lost = 0  # positions up to the last page on the path that is gone
        while node is not None:
            rest = text[len(path) * _PAGE_BYTES : (len(path) + 1) * _PAGE_BYTES]
            child, common = _longest(node, rest)
            if child is None:
                break
            positions = len(path) * _ext.page_tokens + common
            path.append(child)
            if child.page == NO_PAGE:
                lost = len(path) * _ext.page_tokens
            elif lost == 0 or (self._reach is not None and lost <= positions - self._reach):
                best, best_pages = positions, len(path)
            node = child if common == _ext.page_tokens else None
        self._touch(path[:best_pages])
        return Match([self._seen_from(best, i, n.page) for i, n in enumerate(path[:best_pages])], best)

    def _seen_from(self, past: int, index: int, page: int) -> int:
        """The page, unless no query from position `past` on looks at it."""
        unseen = self._reach is not None and (index + 1) * _ext.page_tokens <= past - self._reach
        return NO_PAGE if unseen else page

    def insert(self, ids: Sequence[int], positions: int, rotary_class: int, pages: list[int], place: Place) -> None:
        """Keep the pages of a text's first `positions`, from `place` on, which is moved; NO_PAGE in `pages` is skipped.

        Of two pages with the same contents one is enough: `pages` gets the one that was there before, and the reference
        that the text had to its own is moved there.
        """
        if place.node is None or place.node.parent is None:  # never put, or given up since
            place.node, place.pages = self._roots.setdefault(rotary_class, _Node(None, b"")), 0
        node = place.node
        path = []
        for i in range(place.pages, -(-positions // _ext.page_tokens)):
            start = i * _ext.page_tokens
            key = array("i", ids[start : min(start + _ext.page_tokens, positions)]).tobytes()
            child = node.children.get(key)
            if child is None:
                if len(key) < _PAGE_BYTES and (found := _longer(node, key)):  # a longer text has these positions, too
                    path.append(found)
                    break
                child = self._add(node, key)
            self._put(child, pages, i)
            path.append(child)
            node = child
            if len(key) == _PAGE_BYTES:
                place.node, place.pages = node, i + 1
        self._touch(path)
        self._prune(node)

    def _put(self, node: _Node, pages: list[int], i: int) -> None:
        page = pages[i]
        if page in (NO_PAGE, node.page):
            return
        if node.page == NO_PAGE:
            self._cache.retain(page)
            node.page = page
        elif len(node.tokens) == _PAGE_BYTES:
            self._cache.retain(node.page)
            pages[i] = node.page
            self._cache.release(page)

    def _add(self, parent: _Node, key: bytes) -> _Node:
        node = _Node(parent, key)
        at = bisect_left(parent.order, key)
        parent.order.insert(at, key)
        parent.children[key] = node
        if at > 0 and key.startswith(before := parent.order[at - 1]):  # a partly filled page, of no more use
            self._give_up(parent.children[before])
        return node

    def evict(self) -> bool:
        """Free a page that nobody else holds, the one used longest ago; False when there is none."""
        for _ in range(len(self._used)):
            node = next(iter(self._used))
            if self._cache.references(node.page) == 1:
                self._give_up(node)
                return True
            self._used.move_to_end(node)  # somebody uses it
        return False

    def clear(self) -> None:
        """Give all pages up."""
        for node in list(self._used):
            self._give_up(node)

    def _give_up(self, node: _Node) -> None:
        self._used.pop(node, None)
        if node.page != NO_PAGE:
            self._cache.release(node.page)
            node.page = NO_PAGE
        self._prune(node)

    def _prune(self, node: _Node) -> None:
        """Forget nodes that lead to no page."""
        while node.page == NO_PAGE and not node.children and node.parent is not None:
            parent = node.parent
            del parent.children[node.tokens]
            del parent.order[bisect_left(parent.order, node.tokens)]
            node.parent = None
            node = parent
        if node.parent is None and not node.children:
            self._roots = {key: root for key, root in self._roots.items() if root is not node}

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            if node.page != NO_PAGE:
                self._used[node] = None
                self._used.move_to_end(node)


_PAGE_BYTES = _ext.page_tokens * _TOKEN_BYTES


def _longest(node: _Node, tokens: bytes) -> tuple[_Node | None, int]:
    """The child that begins with the most of `tokens`, and how many."""
    exact = node.children.get(tokens)
    if exact is not None:
        return exact, len(tokens) // _TOKEN_BYTES
    at = bisect_left(node.order, tokens)
    beside = [(_common(key, tokens), key) for key in node.order[max(0, at - 1) : at + 1]]
    common, key = max(beside, default=(0, b""))
    return (node.children[key], common) if common else (None, 0)


def _longer(node: _Node, tokens: bytes) -> _Node | None:
    """A child that begins with these tokens and has more."""
    at = bisect_left(node.order, tokens)
    found = at < len(node.order) and node.order[at].startswith(tokens)
    return node.children[node.order[at]] if found else None


def _common(a: bytes, b: bytes) -> int:
    """How many tokens of both are equal, from the start."""
    n = min(len(a), len(b))
    differences = int.from_bytes(a[:n], "little") ^ int.from_bytes(b[:n], "little")
    if differences == 0:
        return n // _TOKEN_BYTES
    return ((differences & -differences).bit_length() - 1) // (8 * _TOKEN_BYTES)
