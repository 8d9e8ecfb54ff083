"""A Prometheus endpoint in the server's process, for as long as its rounds go on."""

import socket
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from server_app.causes import CAUSES, cause_of
from server_app.environment import environment
from server_app.fairness import ROLE_KEYS
from task.config import LogConfig
from task.errors import ConfigError
from task.settings import Scalar

ROUND_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
PHASES = {"train": "failures", "evaluate": "evaluation_failures"}
INFO_SETTINGS = ("data.source", "strategy.name", "privacy.unit", "engine.name")


class Prometheus:
    """Serves a run's metrics; a metric is there from its first value on, and keeps the last one.

    Everything comes from the metrics that a round logs, so what a run does not disclose there
    (`privacy.metrics`, hidden cohorts) is not disclosed here either.

    Args:
        config: address and port.
        settings: the run's settings.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, config: LogConfig, settings: Mapping[str, Scalar]) -> None:
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Gauge | Counter | Histogram] = {}
        version = environment()["packages"]["pluralllm"]
        run = {key.replace(".", "_").replace("-", "_"): settings[key] for key in INFO_SETTINGS}
        self._set("run_info", "The run's version and main settings.", 1, version=version, **run)
        rounds = float(settings["train.num-rounds"])
        self._set("rounds_planned", "Federated rounds of the whole run.", rounds)
        try:
            self._server, self._thread = start_http_server(
                config.prometheus_port, config.prometheus_host, self._registry
            )
        except OSError as error:
            raise _unusable(config, error) from error

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """See `Sink.log`."""
        self._set("round", "Last round that was finished.", step)
        self._set("train_loss", "Mean of the clients' training losses.", metrics.get("loss"))
        self._set("clients", "Clients of the last round that count.", metrics.get("clients"))
        self._log_failures(metrics)
        self._log_costs(metrics, is_round=step > 0 and "stopped" not in metrics)
        for role, key in ROLE_KEYS.items():
            scores = metrics.get(key) or {}
            for name, entry, which in (
                ("alignment_score_mean", "alignment_score", "Mean alignment score of a"),
                ("alignment_score_worst", "worst_group", "Alignment score of the worst group of a"),
            ):
                self._set(name, f"{which} role, 0.167 to 1.", scores.get(entry), role=role)
        if promise := metrics.get("privacy"):
            epsilon = float("inf") if promise["epsilon"] is None else promise["epsilon"]
            labels = {"unit": promise["unit"], "delta": f"{promise['delta']:g}"}
            self._set("privacy_epsilon", "Privacy spent so far.", epsilon, **labels)

    def close(self) -> None:
        """See `Sink.close`."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _log_failures(self, metrics: Mapping[str, Any]) -> None:
        text = "Client failures, by what the client was asked to do and by cause."
        for phase, key in PHASES.items():
            if key in metrics:  # zeros as well, so that a rate is known from the first one on
                causes = [cause_of(reason) for reason in metrics[key].values()]
                for cause in CAUSES:
                    self._add("failures", text, causes.count(cause), phase=phase, cause=cause)

    def _log_costs(self, metrics: Mapping[str, Any], *, is_round: bool) -> None:
        for key, name, text in (
            ("megabytes_down", "sent", "Array bytes sent to clients."),
            ("megabytes_up", "received", "Array bytes received from clients."),
        ):
            if key in metrics:
                self._add(f"{name}_bytes", text, round(metrics[key] * 1e6))
        if "seconds" not in metrics or not is_round:
            return
        seconds = float(metrics["seconds"])
        self._set("last_round_seconds", "Time of the last round, evaluation included.", seconds)
        histogram = self._metric(Histogram, "round_seconds", "Time of rounds.", ())
        histogram.observe(seconds)

    def _set(self, name: str, text: str, value: float | None, **labels: Scalar) -> None:
        if value is not None:
            gauge = self._metric(Gauge, name, text, tuple(labels))
            (gauge.labels(**labels) if labels else gauge).set(value)

    def _add(self, name: str, text: str, amount: float, **labels: Scalar) -> None:
        counter = self._metric(Counter, name, text, tuple(labels))
        (counter.labels(**labels) if labels else counter).inc(amount)

    def _metric(self, kind: Any, name: str, text: str, labels: tuple[str, ...]) -> Any:
        """Return a metric, made when it is first needed."""
        if name not in self._metrics:
            options = {"buckets": ROUND_SECONDS} if kind is Histogram else {}
            self._metrics[name] = kind(
                f"pluralllm_{name}", text, labels, registry=self._registry, **options
            )
        return self._metrics[name]


def require_address(config: LogConfig) -> None:
    """Raise a `ConfigError` when the metrics cannot be served at the address.

    The socket is bound as `start_http_server` binds its own.
    """
    host, port = config.prometheus_host, config.prometheus_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise _unusable(config, error) from error


def _unusable(config: LogConfig, error: OSError) -> ConfigError:
    return ConfigError(
        f"log.prometheus-port = {config.prometheus_port}, log.prometheus-host = "
        f"{config.prometheus_host!r}: metrics cannot be served there "
        f"({error.strerror or error}). Expected a free port and an address of this machine. "
        "Choose another port (`ss -ltnp` shows who has this one; each run that goes on at the "
        "same time needs its own), or 0 to serve none."
    )
