"""Visitors: clients that have made their first request and know where they belong."""

from __future__ import annotations

import http.client
from typing import NamedTuple

from .payloads import SMALL
from .processes import BenchmarkError


class Visitor(NamedTuple):
    """What a client sends with every request, and which origin must answer it.

    Both are empty where there is no affinity to be honoured.
    """

    cookie: str = ""
    origin: str = ""


NOBODY = Visitor()


def _first_answer(port: int) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", SMALL.path)
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer


def is_answering(port: int) -> bool:
    """Whether a request to a port succeeds."""
    try:
        return _first_answer(port).status == 200
    except (OSError, http.client.HTTPException):
        return False


def welcome(port: int, count: int) -> list[Visitor]:
    """Make the first request of so many clients, and keep the cookies and who answered.

    Raises BenchmarkError if an answer lacks either, or if one backend got everybody.
    """
    visitors = []
    for _ in range(count):
        answer = _first_answer(port)
        cookies = [
            value.partition(";")[0] for value in answer.headers.get_all("Set-Cookie", failobj=[])
        ]
        origin = answer.headers.get("X-Origin", "")
        if answer.status != 200 or not cookies or not origin:
            raise BenchmarkError(
                f"a first request got {answer.status}, cookies {cookies}, origin {origin!r}"
            )
        visitors.append(Visitor("; ".join(cookies), origin))
    if len({visitor.origin for visitor in visitors}) < 2:
        raise BenchmarkError(f"all {count} visitors were sent to {visitors[0].origin}")
    return visitors


def headers_of(visitor: Visitor) -> dict[str, str]:
    """What a visitor sends: its cookie, and for the origin, where it belongs."""
    return {
        name: value
        for name, value in (("Cookie", visitor.cookie), ("X-Want", visitor.origin))
        if value
    }
