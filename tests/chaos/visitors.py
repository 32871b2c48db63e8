"""Visitors: each has a session, a connection and a cookie, and checks whatever it is answered."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import NamedTuple

from .answers import Answer, Connection, NoAnswer


class Outcome(NamedTuple):
    """How one request went.

    Attributes:
        number: Which request of the load it was.
        visitor: Whose.
        method: Its method.
        began: When it was made, by `time.monotonic()`.
        ended: When its answer was complete, or missing.
        status: What was answered; None without a whole answer.
        problem: What is wrong with that; None if nothing is.
        retry_after: Whether the answer had that field.
    """

    number: int
    visitor: str
    method: str
    began: float
    ended: float
    status: int | None
    problem: str | None
    retry_after: bool = False


@dataclass(slots=True)
class Stay:
    """The time that a visitor was served by one run of one replica.

    Attributes:
        replica: The replica's name.
        boot: Which run of it.
        since: When the first request that it answered was made.
        left: When somebody else answered; None if nobody did.
    """

    replica: str
    boot: str
    since: float
    left: float | None = None


class Visitor:
    """Somebody with a session.

    Args:
        name: The session's.
        port: Where the gateway listens.
        wait: Seconds that its replica is to take for an answer.
    """

    def __init__(self, name: str, port: int, wait: float = 0.0) -> None:
        self.name = name
        self.wait = wait
        self.stays: list[Stay] = []
        self._connection = Connection(port)
        self._cookies: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._lost_posts = 0

    async def visit(self, method: str, number: int, wait: float | None = None) -> Outcome:
        """Make one request and check the answer; `wait` is for this one only."""
        began = time.monotonic()
        wait = self.wait if wait is None else wait
        headers = {"x-session": self.name}
        # Not among the fields: with them alike, the gateway may remember what it made of them.
        target = f"/session?wait={wait}&number={number}"
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{key}={value}" for key, value in self._cookies.items())
        status: int | None = None
        problem: str | None
        retry_after = False
        try:
            answer = await self._connection.ask(method, target, headers)
        except NoAnswer as exc:
            problem = exc.problem
        else:
            self._cookies.update(answer.cookies)
            status, retry_after = answer.status, "retry-after" in answer.headers
            problem = self.judge(answer, method, number, began)
        if problem is not None and method == "POST":
            self._lost_posts += 1
        ended = time.monotonic()
        return Outcome(number, self.name, method, began, ended, status, problem, retry_after)

    def judge(self, answer: Answer, method: str, number: int, began: float) -> str | None:
        """What is wrong with an answer; None if nothing is. Takes note of who gave it."""
        if answer.status != 200:
            return f"status {answer.status}"
        told = json.loads(answer.body)
        if (told["session"], told["number"]) != (self.name, number):
            return "wrong answer: somebody else's"
        boot, count = told["boot"], told["count"]
        least = self._counts.get(boot, 0) + (method == "POST")
        if not least <= count <= least + self._lost_posts:
            return "wrong answer: the session's counter"
        self._counts[boot] = count
        if not self.stays or self.stays[-1].boot != boot:
            if self.stays:
                self.stays[-1].left = time.monotonic()
            self.stays.append(Stay(told["replica"], boot, began))
        return None

    def leave(self) -> None:
        """Close the connection."""
        self._connection.close()
