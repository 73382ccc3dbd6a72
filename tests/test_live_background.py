"""Stages that overlap: order, bounds, the newest of a camera, errors, and that nothing hangs."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from handmesh.live.background import InBackground

PATIENCE_S = 10.0


def _until(condition) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


def test_everything_comes_in_order():
    with InBackground(range(200)) as numbers:
        assert list(numbers) == list(range(200))
        assert list(numbers) == []  # the end stays the end


def test_stages_run_at_the_same_time():
    """Each waits for the other to be at work: one after the other they would wait for ever."""
    meeting = threading.Barrier(2, timeout=PATIENCE_S)

    def first():
        for number in range(3):
            if number:
                meeting.wait()
            yield number

    with InBackground(first()) as numbers:
        for number in numbers:
            if number < 2:
                meeting.wait()


def test_no_more_than_ahead_items_wait():
    made = []

    def make():
        for number in range(50):
            made.append(number)
            yield number

    with InBackground(make(), ahead=2) as numbers:
        for taken, _ in enumerate(numbers, start=1):
            time.sleep(0.002)
            # Those that were taken, those that wait, and the one in hand.
            assert len(made) <= taken + 2 + 1
    assert len(made) == 50


def test_a_camera_never_waits_and_its_newest_picture_wins():
    made = []

    def camera():
        for number in range(20):
            made.append(number)
            yield number

    with InBackground(camera(), newest_only=True) as numbers:
        _until(lambda: len(made) == 20)
        time.sleep(0.01)
        assert list(numbers) == [19]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_comes_after_what_was_made_before_it(kind):
    def broken():
        yield from range(3)
        raise kind("broken")

    seen = []
    with InBackground(broken()) as numbers, pytest.raises(kind, match="broken"):
        for number in numbers:
            seen.append(number)
    assert seen == [0, 1, 2]


def test_take_says_nothing_yet_then_the_item_then_the_end():
    go = threading.Event()

    def late():
        go.wait(PATIENCE_S)
        yield 7

    with InBackground(late()) as numbers:
        assert numbers.take(0.0) is None
        assert numbers.take(0.001) is None
        go.set()
        assert numbers.take(PATIENCE_S) == 7
        with pytest.raises(StopIteration):
            numbers.take(PATIENCE_S)


def test_take_raises_what_the_iteration_raised():
    def broken():
        yield 1
        raise ValueError("broken")

    with InBackground(broken()) as numbers:
        assert numbers.take(PATIENCE_S) == 1
        with pytest.raises(ValueError, match="broken"):
            numbers.take(PATIENCE_S)


def test_take_after_stop_is_the_end():
    with InBackground(range(3)) as numbers:
        numbers.stop()
        with pytest.raises(StopIteration):
            numbers.take(PATIENCE_S)


def test_closing_waits_no_longer_than_its_patience():
    go = threading.Event()

    def stuck():
        go.wait(PATIENCE_S)
        yield 0

    numbers = InBackground(stuck(), patience_s=0.01)
    numbers.close()
    assert numbers._thread.is_alive() and numbers._thread.daemon
    go.set()
    numbers._thread.join(PATIENCE_S)
    assert not numbers._thread.is_alive()


def test_closing_early_stops_the_thread():
    made = []

    def endless():
        while True:
            made.append(None)
            yield len(made)

    with InBackground(endless()) as numbers:
        assert next(numbers) == 1
    count = len(made)
    time.sleep(0.02)
    assert len(made) == count <= 4
    assert list(numbers) == []


def test_a_chain_is_stopped_from_its_far_end():
    def endless():
        while True:
            yield 0

    with ExitStack() as stack:
        stages = [stack.enter_context(InBackground(endless()))]
        for _ in range(3):
            stages.append(stack.enter_context(InBackground(map(abs, stages[-1]))))
        for stage in reversed(stages):
            stack.callback(stage.stop)
        assert next(stages[-1]) == 0
    assert not [stage for stage in stages if stage._thread.is_alive()]
