"""What the service counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from recgraph.serve.http.errors import Refused
from recgraph.serve.http.reloading import Outcome
from recgraph.serve.http.served import Served
from recgraph.serve.http.writing import Answer

__all__ = ["Figures"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """Counters in a registry of their own, so that two services in one process do not share any.

    Args:
        served: the first bundle.
        n_waiting: how many requests wait now.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, served: Served, n_waiting: Callable[[], int]) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise ImportError("prometheus-client is not installed; pip install 'recgraph[api]'") from None
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("recgraph_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "recgraph_request_seconds",
            "From a request's head to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._users = Histogram(
            "recgraph_batch_users", "Users, and items asked for, ranked together.", buckets=_USERS, registry=registry
        )
        self._ranking = Histogram(
            "recgraph_batch_seconds", "From a batch's start to its lists.", buckets=_SECONDS, registry=registry
        )
        self._reloads = Counter("recgraph_reloads", "Attempts to load a bundle.", ("outcome",), registry=registry)
        self._unknown_items = Counter(
            "recgraph_unknown_items", "Items of histories, skipped, and items asked for, unknown.", registry=registry
        )
        self._unknown_users = Counter("recgraph_unknown_users", "Users asked for, unknown.", registry=registry)
        self._fallbacks = Counter("recgraph_fallbacks", "Users who got a fallback.", registry=registry)
        self._bundle = Gauge(
            "recgraph_bundle_loaded_seconds",
            "When the bundle was loaded (unix).",
            ("bundle", "model"),
            registry=registry,
        )
        for outcome in ("loaded", "unchanged", "refused"):
            self._reloads.labels(outcome)
        Gauge("recgraph_waiting", "Requests waiting to be ranked.", registry=registry).set_function(n_waiting)
        self._show(served)

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answer(self, answer: Answer | Refused) -> None:
        """Lists were given, or refused."""
        self._unknown_items.inc(answer.n_unknown_items)
        self._unknown_users.inc(answer.n_unknown_users)
        if isinstance(answer, Answer):
            self._fallbacks.inc(answer.n_fallbacks)

    def batch(self, n_users: int, seconds: float) -> None:
        """Users were ranked together."""
        self._users.observe(n_users)
        self._ranking.observe(seconds)

    def reload(self, outcome: Outcome, served: Served) -> None:
        """A bundle was, or was not, loaded."""
        self._reloads.labels(outcome).inc()
        self._show(served)

    def _show(self, served: Served) -> None:
        self._bundle.clear()
        self._bundle.labels(served.identity, type(served.recommender.model).__name__).set(served.loaded)

    def text(self) -> tuple[bytes, str]:
        """The figures as Prometheus reads them, and the type of that text."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
