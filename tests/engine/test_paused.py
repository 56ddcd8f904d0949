"""What a worker knows to be paused, and how far jobs of paused tasks are put back."""

import pytest
from workerbase.engine.pauses import MAX_DELAY_S, MIN_DELAY_S, PUT_BACK_PER_S, Pause, Paused


class Clock:
    def __init__(self) -> None:
        self.now = 100.3

    def __call__(self) -> float:
        return self.now


def pause(kind: str, name: str) -> Pause:
    return Pause(kind, name, "anna", "", 1.0)  # type: ignore[arg-type]


def test_each_kind_is_paused_for_itself() -> None:
    paused = Paused()
    assert not paused.any
    assert not paused.queue
    paused.set([pause("stream", "a"), pause("event", "b"), pause("task", "c")])
    assert paused.any
    assert [paused.stream(name) for name in "abc"] == [True, False, False]
    assert [paused.task([name]) for name in "abc"] == [False, False, True]
    assert paused.task({"former name of c", "c"})
    assert paused.message("a", "x")
    assert paused.message("x", "b")
    assert not paused.message("x", "a")
    assert not paused.queue
    paused.set([pause("queue", "q")])
    assert (paused.queue, paused.stream("q"), paused.task("q")) == (True, False, False)
    paused.set([])
    assert not paused.any


def test_while_it_is_not_known_what_is_paused_nothing_is_read() -> None:
    paused = Paused()
    paused.forget()
    assert paused.any
    assert paused.queue
    assert paused.stream("any")
    paused.set([])
    assert not paused.any


def test_few_jobs_are_put_back_shortly_and_many_further_in_order() -> None:
    clock = Clock()
    paused = Paused(clock)
    due = [clock.now + paused.delay() for _ in range(10_000)]
    assert due[0] - clock.now == pytest.approx(MIN_DELAY_S + 0.7)
    assert due == sorted(due)
    assert due[-1] - due[0] == pytest.approx(10_000 / PUT_BACK_PER_S, abs=1)
    assert {round(at, 3) % 1 for at in due} == {0}, "they come due together"
    for _ in range(100_000):
        assert paused.delay() <= MAX_DELAY_S + 1
    clock.now += 1_000
    assert paused.delay() < MIN_DELAY_S + 1
