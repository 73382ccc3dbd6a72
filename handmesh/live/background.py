"""Stages of a loop that overlap: each runs in a thread of its own and hands over through a small queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Waiting without an end cannot be interrupted by Ctrl-C on every system.
_WAKE_S = 0.1


class InBackground(Generic[Item]):
    """Iterates in a thread; what it yields (anything but None), and at the end what it raises, comes out here in order.

    Example:
        with InBackground(frames) as frames, InBackground(map(predict, frames)) as results:
            for result in results: ...

    Args:
        items: what to iterate; nobody else may touch it meanwhile.
        ahead: how many items may wait.
        newest_only: never make `items` wait: of those that nobody has taken only the newest `ahead` are kept. For cameras.
        patience_s: how long `close` waits for the item that is being made; None for as long as it takes. Native code that waits for a
            camera cannot be interrupted: its thread is then left behind, and ends with the process at the latest.
    """

    def __init__(self, items: Iterable[Item], ahead: int = 1, newest_only: bool = False, patience_s: float | None = None) -> None:
        self._items = items
        self._patience_s = patience_s
        self._waiting: deque[Item] = deque()
        self._ahead = ahead
        self._newest_only = newest_only
        self._changed = threading.Condition()
        self._is_over = False
        self._is_stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="handmesh stage", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        while (item := self.take(_WAKE_S)) is None:
            pass
        return item

    def take(self, timeout_s: float) -> Item | None:
        """The next item; None when there is none yet after a wait of at most `timeout_s`.

        Raises:
            StopIteration: there are no more.
            BaseException: what the iteration raised, after all that was made before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over or self._is_stopped, timeout_s)
            if self._waiting and not self._is_stopped:
                item = self._waiting.popleft()
                self._changed.notify_all()
                return item
            if not self._is_over and not self._is_stopped:
                return None
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop after the item that is being made, which is lost like those that wait."""
        self.stop()
        self._thread.join(self._patience_s)

    def stop(self) -> None:
        """As `close`, without waiting for the thread: who iterates, and who reads this, is woken up."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def __enter__(self) -> InBackground[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        error = None
        try:
            for item in self._items:
                if not self._hand_over(item):
                    break
        except BaseException as failure:  # whatever it is, Ctrl-C included, belongs to whoever takes the items
            error = failure
        with self._changed:
            self._error, self._is_over = error, True
            self._changed.notify_all()

    def _hand_over(self, item: Item) -> bool:
        """Queue an item as soon as there is room; False when nobody wants it any more."""
        with self._changed:
            while len(self._waiting) >= self._ahead and not self._newest_only and not self._is_stopped:
                self._changed.wait()
            if self._is_stopped:
                return False
            if len(self._waiting) >= self._ahead:
                self._waiting.popleft()
            self._waiting.append(item)
            self._changed.notify_all()
            return True
