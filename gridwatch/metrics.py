"""Prometheus metrics of one host; nothing is counted twice, the stages' own counters are read at each scrape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.exceptions import GridwatchError

__all__ = ["LATENCY_BUCKETS_S", "Metrics", "Reading"]

# From one inference on an idle host to a broker that was away for a while.
LATENCY_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)

Reading = tuple[str, str, str, dict[str, str], float]
"""Kind (``counter`` or ``gauge``), name, help, labels, value."""


class _Collector:
    def __init__(self, read: Callable[[], Sequence[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for kind, name, text, labels, value in self._read():
            if name not in families:
                family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                families[name] = family(name, text, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()


class Metrics:
    """The host's metrics, and their HTTP endpoint where a port is configured.

    Args:
        read: Gives the present readings; called at each scrape.

    Attributes:
        frame_to_result: Seconds from a packet's arrival to the end of its analysis.
        frame_to_ticket: Seconds from a packet's arrival to the stored ticket that it raised.
    """

    def __init__(self, read: Callable[[], Sequence[Reading]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(read))
        self.frame_to_result = Histogram(
            "gridwatch_frame_to_result_seconds",
            "From a packet's arrival to the end of its analysis",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.frame_to_ticket = Histogram(
            "gridwatch_frame_to_ticket_seconds",
            "From a packet's arrival to the stored ticket that it raised",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._close: Callable[[], None] = lambda: None

    def serve(self, port: int, address: str) -> None:
        """Answer scrapes on `address`:`port`.

        Raises:
            GridwatchError: if the port cannot be taken.
        """
        try:
            server, thread = start_http_server(port, address, self.registry)
        except OSError as error:
            raise GridwatchError(
                f"runtime.metrics_port: cannot listen on {address}:{port}: {error.strerror}"
            ) from error

        def close() -> None:
            threading.Thread(target=server.shutdown, daemon=True).start()
            thread.join(1.0)
            server.server_close()

        self._close = close

    def close(self) -> None:
        """Stop answering."""
        self._close()
