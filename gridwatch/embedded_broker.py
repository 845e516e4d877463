"""The demo's own MQTT broker (amqtt), so that nothing needs to be installed to see the product work.

It speaks MQTT 3.1.1 only and keeps nothing on disk: for a demo, never for a site.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from types import TracebackType
from typing import Any, Self

from pipeline.exceptions import BrokerError

__all__ = ["EmbeddedBroker", "free_port"]

START_TIMEOUT_S = 15.0


class EmbeddedBroker:
    """An anonymous broker on the loopback address, in a thread of its own.

    Args:
        port: TCP port; 0 takes a free one.

    Attributes:
        port: The port it listens on.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="embedded-broker", daemon=True)
        self._broker: Any = None
        self._ready = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise BrokerError(f"the embedded broker did not start within {START_TIMEOUT_S:.0f} s")
        if self._error is not None:
            raise BrokerError(
                f"the embedded broker cannot listen on 127.0.0.1:{self.port}: {self._error}; "
                "expected a free port"
            ) from self._error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _run(self) -> None:
        # amqtt tells of every connection; the operators' feed is the place for news.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        from amqtt.broker import Broker

        asyncio.set_event_loop(self._loop)
        # amqtt trips over clients that go away while it refuses them, as those do that try MQTT 5 first.
        self._loop.set_exception_handler(
            lambda _loop, context: logging.getLogger("amqtt").debug(context["message"])
        )
        settings = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
        try:
            self._broker = Broker(settings, loop=self._loop)
            self._loop.run_until_complete(self._broker.start())
        except Exception as error:  # noqa: BLE001 - mapped to BrokerError in the caller's thread
            self._error = error
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()
        with contextlib.suppress(Exception):  # whatever it holds goes away with the process
            self._loop.run_until_complete(asyncio.wait_for(self._broker.shutdown(), 3.0))
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
