"""How the items of one work that may run at once are shared out among actors. Pure."""

from __future__ import annotations


class Places:
    """So many as may run at once in all, dealt to the actors as evenly as can be. An actor is dealt
    its share when it first gets an item of the work; whoever comes when all are dealt has none."""

    def __init__(self, at_once: int, actors: int) -> None:
        """Both 1 or more."""
        shares = min(at_once, actors)
        least, more = divmod(at_once, shares)
        self._free = [least] * (shares - more) + [least + 1] * more

    def deal(self) -> int | None:
        return self._free.pop() if self._free else None

    @property
    def left(self) -> bool:
        return bool(self._free)

    def give_back(self, share: int) -> None:
        """Of an actor that is no more."""
        self._free.append(share)


def ahead(places: int) -> int:
    """How many more items than places are sent: they wait where they will run, so that no place is
    empty while a result travels and the next item comes. Few, since they wait for that actor
    though another may be free. A quarter, rounded up: what is handed over for all finds room at
    those that share it."""
    return -(-places // 4)
