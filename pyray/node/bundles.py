"""What a placement group has, as resources of its own, and what tasks ask for in it.

A group that has been reserved holds the sum of its bundles, as a task would that never ends.  That
much is there again under other names: of each kind what the whole group has, and what each bundle
has.  A task in bundle 1 asks for both, one that may run in any bundle for the first alone.  So what
the bundles have together is never exceeded, what bundle 1 has is not either, and a task that named
no bundle never keeps out one that did while there is room in the group.

CPUs so named are *seats*: they are no tokens of the ledger, which the group holds, but a task that
waits gives them back all the same.  GPUs stay the same GPUs: a bundle's own come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyray.node.resources import CPU, GPU, Allocation, ResourceRequest, Share

__all__ = ["ANY_BUNDLE", "Group"]

ANY_BUNDLE = -1
# Of the mark that each task in a group holds, one unit: it tells whether there is any.
_MANY = 1 << 62


class Group:
    """One placement group.

    Parameters
    ----------
    number : int
        As the shell knows it.
    bundles : sequence of mapping
        Amounts by resource.

    Attributes
    ----------
    bundles : list of ResourceRequest
    request : ResourceRequest
        Their sum, and the GPUs of each.
    removed : bool
        Whether it is to go as soon as the tasks in it have gone.
    shapes : list of int
        Shapes of tasks in it.

    Raises
    ------
    TypeError, ValueError
        As `ResourceRequest.from_dict`.
    """

    __slots__ = ("bundles", "number", "removed", "request", "shapes")

    def __init__(self, number: int, bundles: Sequence[Mapping[str, object]]) -> None:
        self.number = number
        self.bundles = [ResourceRequest.from_dict(amounts) for amounts in bundles]
        self.removed = False
        self.shapes: list[int] = []
        amounts = self._sums()
        parts = tuple(b.gpu for b in self.bundles)
        cpu, gpu = amounts.pop(CPU, 0), amounts.pop(GPU, 0)
        others = tuple(sorted(amounts.items()))
        self.request = ResourceRequest(cpu, gpu, others, parts=parts if gpu else ())

    def _sums(self) -> dict[str, int]:
        amounts: dict[str, int] = {}
        for bundle in self.bundles:
            for name, n in bundle.units().items():
                amounts[name] = amounts.get(name, 0) + n
        return amounts

    @property
    def mark(self) -> str:
        """Name of what every task in the group holds some of."""
        return f"\0{self.number}"

    def _name(self, kind: str, bundle: int = ANY_BUNDLE) -> str:
        # No user's resource has a NUL in its name.
        where = "" if bundle == ANY_BUNDLE else f"/{bundle}"
        return f"{kind}\0{self.number}{where}"

    def resources(
        self, allocation: Allocation, num_gpus: int
    ) -> tuple[dict[str, int], dict[str, list[int]], dict[str, Share]]:
        """What there is under the group's names once it has been given `allocation`.

        Returns
        -------
        amounts : dict of str to int
        gpus : dict of str to list of int
            The group's part of each of the session's GPUs.
        near : dict of str to Share
            Each bundle's.
        """
        amounts = {self.mark: _MANY}
        amounts.update((self._name(kind), n) for kind, n in self._sums().items() if kind != GPU)
        for i, bundle in enumerate(self.bundles):
            amounts.update((self._name(kind, i), n) for kind, n in bundle.units().items())
        if not allocation.gpus:
            return amounts, {}, {}
        gpus = [0] * num_gpus
        for share in allocation.gpus:
            for i, n in share:
                gpus[i] += n
        near = {self._name(GPU, i): share for i, share in enumerate(allocation.gpus)}
        return amounts, {self._name(GPU): gpus}, near

    def names(self) -> list[str]:
        """All names that `resources` gives."""
        found = [self.mark, *map(self._name, self._sums())]
        for i, bundle in enumerate(self.bundles):
            found += [self._name(kind, i) for kind in bundle.units()]
            found.append(self._name(GPU, i))
        return found

    def request_in(self, bundle: int, asked: ResourceRequest) -> ResourceRequest:
        """What a task that asks for `asked` in a bundle, or in any, takes of the group."""
        where = (ANY_BUNDLE,) if bundle == ANY_BUNDLE else (ANY_BUNDLE, bundle)
        others = [(self.mark, 1)]
        others += [(self._name(kind, i), n) for kind, n in asked.others for i in where]
        near = ""
        if asked.gpu and bundle != ANY_BUNDLE:
            near = self._name(GPU, bundle)
            others.append((near, asked.gpu))
        return ResourceRequest(
            gpu=asked.gpu,
            others=tuple(others),
            seats=tuple((self._name(CPU, i), asked.cpu) for i in where) if asked.cpu else (),
            gpus=self._name(GPU),
            near=near,
            asked=asked,
        )

    def why_not(self, bundle: int, asked: ResourceRequest) -> str | None:
        """Say why a request fits in no bundle, or not in this one; None if it does."""
        wanted = asked.units()
        where = self.bundles if bundle == ANY_BUNDLE else [self.bundles[bundle]]
        for one in where:
            there = one.units()
            if all(n <= there.get(name, 0) for name, n in wanted.items()):
                return None
        if bundle != ANY_BUNDLE:
            return f"asks for {asked} in bundle {bundle}, which has {where[0]}"
        kinds = list(dict.fromkeys(f"({one})" for one in where))
        shown = ", ".join(kinds[:4]) + (", and others" if len(kinds) > 4 else "")
        return f"asks for {asked}, more than any one of its bundles has: {shown}"
