"""The progress of a whole update: it never goes back, and says no more than there is."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.client.events import Cancelled, Event, Meter, Progress
from composer.client.transfers import Moved
from composer.progress import Step

_BYTES = st.integers(0, 10**9)
_PHASES = st.sampled_from(["packages", "content", "import", "look"])
_STEPS = st.builds(
    lambda phase, done, total: Step(phase, min(done, total), total, "bytes"),
    _PHASES,
    _BYTES,
    _BYTES,
)
# A plan, and what is to be written for it; or a step of its work.
_ACTIONS = st.lists(st.one_of(_STEPS, st.tuples(_BYTES, _BYTES)), max_size=60)


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.4
        return self.now


def _run(first: tuple[int, int], actions: list[Step | tuple[int, int]]) -> list[Progress]:
    told: list[Event] = []
    meter = Meter(told.append, clock=_Clock())
    for action in [first, *actions]:
        if isinstance(action, Step):
            meter(action)
        else:
            meter.expect({"rpm": Moved(action[0], 1)}, action[1])
    meter.finish()
    return [event for event in told if isinstance(event, Progress)]


@given(first=st.tuples(_BYTES, _BYTES), actions=_ACTIONS)
def test_progress_never_goes_back(
    first: tuple[int, int], actions: list[Step | tuple[int, int]]
) -> None:
    told = _run(first, actions)
    for before, after in pairwise(told):
        assert before.done <= after.done
        assert before.fraction <= after.fraction
    assert all(0 <= one.fraction <= 1 for one in told)
    assert all(0 <= one.done <= one.total for one in told)
    assert all(one.seconds_left is None or one.seconds_left >= 0 for one in told)
    assert told[-1].fraction == 1
    assert told[-1].done == told[-1].total


def test_progress_of_an_update_goes_on_as_its_bytes_do() -> None:
    steps = [Step("packages", n * 100, 1000, "bytes") for n in range(11)]
    told = _run((1000, 0), [*steps])
    assert [one.done for one in told[:-1]] == [n * 100 for n in range(11)]
    assert told[5].fraction == pytest.approx(0.5)
    assert told[5].seconds_left == pytest.approx(5 * 0.4, rel=0.01)


def test_retry_that_begins_anew_holds_the_bar() -> None:
    steps = [Step("packages", done, 1000, "bytes") for done in (600, 0, 300, 800)]
    assert [one.done for one in _run((1000, 0), [*steps])][:4] == [600, 600, 600, 800]


def test_second_round_for_lost_packages_counts_on() -> None:
    rounds = [Step("packages", 900, 1000), Step("packages", 0, 100), Step("packages", 100, 100)]
    assert [one.done for one in _run((1000, 0), [*rounds])][:3] == [900, 900, 1000]


def test_new_plan_goes_on_from_where_the_bar_is() -> None:
    halfway = Step("packages", 500, 1000)
    told = _run((1000, 0), [halfway, (4000, 0), Step("packages", 0, 4000)])
    assert (told[1].done, told[1].total) == (500, 4500)
    assert told[1].fraction == pytest.approx(0.5)
    more = _run((1000, 0), [halfway, (4000, 0), Step("packages", 2000, 4000)])
    assert more[1].fraction == pytest.approx(0.75)


def test_no_progress_is_told_before_there_is_a_plan() -> None:
    told: list[Event] = []
    Meter(told.append)(Step("look"))
    assert told == [Step("look")]


def test_cancelled_meter_raises_at_the_next_step() -> None:
    cancel = threading.Event()
    meter = Meter(lambda event: None, cancel=cancel)
    meter(Step("look"))
    cancel.set()
    with pytest.raises(Cancelled):
        meter(Step("look"))
