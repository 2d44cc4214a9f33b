"""The node's book of shapes: each sort of task that asks for the same has a number."""

from __future__ import annotations

from collections.abc import Callable

from pyray.node import messages as m
from pyray.node.groups import Groups
from pyray.node.scheduler import Scheduler
from pyray.placement import Place

# What tasks ask for: amounts by resource, exclusive, environment, place, whether CPUs are kept.
_Key = tuple[frozenset[tuple[str, float]], bool, str | None, Place | None, bool]
# One CPU and nothing else: the shape that workers run without the node.
_DEFAULT: _Key = (frozenset({("CPU", 1.0)}), False, None, None, False)


class Shapes:
    """All shapes of the session but the default one, which is 0.

    Parameters
    ----------
    scheduler : Scheduler
        For questions only.
    groups : Groups
    feed : callable
        ``feed(event)`` tells the scheduler something.

    Attributes
    ----------
    kinds : dict of int to tuple
        Of each shape: exclusive, environment, and the placement group as the worker is told it.
    """

    def __init__(
        self, scheduler: Scheduler, groups: Groups, feed: Callable[[m.Event], None]
    ) -> None:
        self._scheduler = scheduler
        self._groups = groups
        self._feed = feed
        self._numbers: dict[_Key, int] = {}
        self._last = 0
        self.kinds: dict[int, tuple[bool, str | None, str]] = {}

    def number(
        self,
        request: dict[str, float],
        exclusive: bool,
        env: str | None,
        place: Place | None,
        keeps_cpus: bool,
    ) -> tuple[int | None, str | None]:
        """Number of a shape of resources, or why it can never be met.

        `exclusive` tasks have a process of their own each, and keep what they are given; those with
        an environment share one with others of the same.
        """
        amounts = frozenset((k, float(v)) for k, v in request.items() if v or k == "CPU")
        key = (amounts, exclusive, env, place, keeps_cpus)
        found = self._numbers.get(key)
        if found is not None:
            return found, None
        record = None
        if place is None:
            reason = self._scheduler.why_infeasible(request)
        else:
            record, reason = self._groups.find(place, request)
        if reason is not None:
            return None, reason
        if key == _DEFAULT:
            return 0, None
        self._last += 1
        if not self._last & 0xFFFF:
            self._last += 1  # what has none of the lower half is no shape
        number = self._last
        if number >= 1 << 31:
            return None, "is one shape too many: a session knows at most two thousand million"
        if place is None or self._groups.add_shape(record, number):
            group = ""
            if record is not None and place is not None:
                group = f"{record.number}{'+' if place.captures else ''}"
            self._numbers[key] = number
            self.kinds[number] = (exclusive, env, group)
            self._feed(
                m.ShapeRegistered(
                    number,
                    request,
                    exclusive or env is not None,
                    exclusive,
                    keeps_cpus,
                    record.number if record else 0,
                    place.bundle if place else -1,
                )
            )
        return number, None

    def forget(self, numbers: set[int]) -> None:
        """Their placement group has been removed: who asks gets others, whose tasks fail."""
        self._numbers = {key: n for key, n in self._numbers.items() if n not in numbers}
        for number in numbers:
            self.kinds.pop(number, None)

    def requests(self) -> dict[int, dict[str, float]]:
        """Amounts by resource, by shape."""
        return {number: dict(key[0]) for key, number in self._numbers.items()}
