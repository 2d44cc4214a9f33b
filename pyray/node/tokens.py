"""The node's part of the ledger of CPU tokens."""

from __future__ import annotations

from pyray.node.resources import UNITS

__all__ = ["TokenAccount", "tokens_for"]


def tokens_for(units: int) -> int:
    """How many whole CPU tokens it takes to hold so many units."""
    return -(-units // UNITS)


class TokenAccount:
    """The node's part of the ledger of CPU tokens, and what of it is in use.

    Where the fast path's tasks are level with shaped ones, the two sides take turns: a shaped
    task starts on a *fresh* token, one acquired since, and used tokens go back before others are
    wanted. A fraction that comes free in a token may be filled again only while a task that
    started on fresh tokens would keep it here anyway; otherwise a stream of small tasks, each
    filling the gap of another, would never let a token go.

    Parameters
    ----------
    total : int
        Tokens of the session.

    Attributes
    ----------
    held : int
        Tokens that the node holds.
    used : int
        Units of them that tasks have.
    opened : int
        Units of those tasks that started on fresh tokens.
    fresh : int
        Held tokens that were acquired and have not been used since.
    want : int
        How many more are wanted, as the shell has been told.
    """

    __slots__ = ("fresh", "held", "opened", "total", "used", "want")

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self.used = 0
        self.opened = 0
        self.fresh = 0
        self.want = 0

    @property
    def in_use(self) -> int:
        """Tokens of which a task has at least a part."""
        return tokens_for(self.used)

    @property
    def gap(self) -> int:
        """Units that may be filled without keeping a token here any longer."""
        return max(0, tokens_for(self.opened) * UNITS - self.used)

    def fits_turn(self, units: int) -> bool:
        """Whether a task that takes turns with the fast path may start."""
        return units <= self.gap + self.fresh * UNITS

    def turn_target(self, units: int) -> int:
        """Tokens to be held for it to start."""
        missing = max(0, units - self.gap - self.fresh * UNITS)
        return min(self.total, self.in_use + self.fresh + tokens_for(missing))

    def take(self, units: int) -> bool:
        """Give a task so many units; whether it counts as started on fresh tokens."""
        over = units - self.gap
        self.used += units
        if over <= 0:
            return False
        self.fresh = max(0, self.fresh - tokens_for(over))
        self.opened += units
        return True

    def give(self, units: int, opener: bool, unused: bool = False) -> None:
        """A task gives so many units back, perhaps without having run on them.

        `opener` is what `take` returned.
        """
        before = self.in_use
        self.used -= units
        if opener:
            self.opened -= units
        if unused:
            self.fresh += before - self.in_use

    def acquire(self, count: int) -> None:
        """The shell got tokens for the node."""
        if count < 0 or self.held + count > self.total:
            raise ValueError(
                f"acquired {count} tokens besides the {self.held} held: there are {self.total}"
            )
        self.held += count
        self.fresh += count
        self.want = max(0, self.want - count)

    def settle(self, target: int, turns: bool) -> tuple[int, int | None]:
        """Keep what serves to reach `target` tokens, let the rest go, want what is missing.

        Parameters
        ----------
        target : int
            Tokens that must be held for what waits to go on or start; 0 if nothing waits.
        turns : bool
            Whether tokens that were given back must go round by the fast path.

        Returns
        -------
        release : int
            Tokens to give back to the ledger.
        want : int or None
            How many are wanted now, if that has changed.
        """
        in_use = self.in_use
        usable = in_use + self.fresh if turns else self.held
        release = self.held - max(in_use, min(usable, target))
        self.held -= release
        self.fresh = min(self.fresh, self.held - in_use)
        want = max(0, target - self.held)
        changed = want != self.want
        self.want = want
        return release, want if changed else None

    def validate(self, used: int) -> None:
        """Check the books, given the sum of what tasks hold.

        Raises
        ------
        AssertionError
            With the figures.
        """
        figures = (
            f"(tokens: {self.total} in all, {self.held} held, {self.fresh} fresh, {self.want} "
            f"wanted; units: {self.used} booked, {used} with tasks)"
        )
        assert self.used == used, f"CPU units booked and with tasks differ {figures}"
        assert 0 <= self.in_use <= self.held <= self.total, f"CPU is oversubscribed {figures}"
        assert 0 <= self.opened <= self.used, f"{self.opened} units opened {figures}"
        assert 0 <= self.fresh <= self.held - self.in_use, f"fresh tokens are in use {figures}"
        assert 0 <= self.want <= self.total - self.held, f"wants more than there are {figures}"
        if not self.want:
            return
        assert self.held + self.want > self.in_use, f"wants tokens that it has {figures}"
