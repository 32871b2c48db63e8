"""An echo client, for cases in which Autobahn is the server."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def run_cases(server: int, agent: str, *, through: int) -> None:
    """Have Autobahn's server run all its cases, and write its report.

    Args:
        server: The server's port. It wants to read it in the field Host.
        agent: What it is to call this client.
        through: The port to connect to: its own, or that of a gateway before it.
    """
    url = f"ws://127.0.0.1:{server}"
    query = f"agent={quote(agent)}"
    async with connect(f"{url}/getCaseCount", port=through, compression=None) as websocket:
        how_many = int(await websocket.recv())
    for case in range(1, how_many + 1):
        path = f"/runCase?case={case}&{query}"
        async with connect(f"{url}{path}", port=through, compression=None) as websocket:
            # However it was closed, that is what is being tested.
            with suppress(ConnectionClosed):
                async for message in websocket:
                    await websocket.send(message)
    path = f"/updateReports?{query}"
    async with connect(f"{url}{path}", port=through, compression=None) as websocket:
        await websocket.wait_closed()
