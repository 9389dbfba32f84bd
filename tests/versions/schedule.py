"""Actors that take turns, one seed one interleaving: threads of which exactly one runs, and time that nobody waits for.

An actor gives up its turn at each request to the store and when it sleeps. Whoever is next is drawn from the seed, so
that a run can be repeated. Now and then an actor stands still for long, or dies where it stands.
"""

import threading
from collections.abc import Callable
from random import Random


class Killed(BaseException):
    """The actor's process was killed."""


class Actor:
    """One thread with its turn and the time at which it may run again."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        self.turn = threading.Lock()
        self.turn.acquire()
        self.awake_s = 0.0
        self.done = False
        self.error: BaseException | None = None


class Schedule:
    """A run of several actors.

    Args:
        random: Decides everything.
        freeze: Chance of standing still for up to 60 s at a turn.
        kill: Chance of being killed at a turn.
    """

    def __init__(self, random: Random, *, freeze: float = 0.01, kill: float = 0.01) -> None:
        self.random = random
        self.now_s = 0.0
        self._freeze = freeze
        self._kill = kill
        self._actors: list[Actor] = []
        self._all_done = threading.Event()
        self._own = threading.local()

    def add(self, name: str, work: Callable[[], None]) -> None:
        """Add an actor before the run."""
        self._actors.append(Actor(name, work))

    def run(self) -> None:
        """Let all actors work until they are done. Raises what one of them raised."""
        threads = [threading.Thread(target=self._live, args=(actor,), daemon=True) for actor in self._actors]
        for thread in threads:
            thread.start()
        self._choose().turn.release()
        if not self._all_done.wait(60):
            raise TimeoutError("an actor never gave its turn back")
        for thread in threads:
            thread.join()
        for actor in self._actors:
            if actor.error is not None:
                raise actor.error

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self._own.actor.awake_s = self.now_s + seconds
        self._pass_on(self._own.actor)

    def step(self, operation: str, key: str) -> None:
        """A turn: called before each request to the store. Of no effect outside of the run."""
        actor: Actor | None = getattr(self._own, "actor", None)
        if actor is None:
            return
        self.now_s += self.random.random() * 0.2
        chance = self.random.random()
        if chance < self._kill:
            raise Killed
        if chance < self._kill + self._freeze:
            actor.awake_s = self.now_s + self.random.uniform(1, 60)
        self._pass_on(actor)

    def _live(self, actor: Actor) -> None:
        self._own.actor = actor
        actor.turn.acquire()
        try:
            actor.work()
        except BaseException as error:
            actor.error = error
        actor.done = True
        if all(each.done for each in self._actors):
            self._all_done.set()
        else:
            self._choose().turn.release()

    def _pass_on(self, actor: Actor) -> None:
        chosen = self._choose()
        if chosen is not actor:
            chosen.turn.release()
            actor.turn.acquire()

    def _choose(self) -> Actor:
        alive = [actor for actor in self._actors if not actor.done]
        ready = [actor for actor in alive if actor.awake_s <= self.now_s]
        if not ready:
            self.now_s = min(actor.awake_s for actor in alive)
            ready = [actor for actor in alive if actor.awake_s <= self.now_s]
        return self.random.choice(ready)
