"""The endpoint as Prometheus sees it: scraped over HTTP and parsed."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server_app.cohort import simulate
from server_app.prometheus import Prometheus
from server_app.sinks import check_sinks, closing_sinks
from task.config import LogConfig, RunConfig
from task.errors import ConfigError
from tests.server_app.cohort_runs import FAULTY, change_training, cohort_config

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

METRICS: dict[str, Any] = {
    "loss": 1.5,
    "clients": 2,
    "failures": {"Japan": "no reply within 3 s", "Peru": "loss = nan is not finite"},
    "megabytes_down": 0.3,
    "megabytes_up": 0.1,
    "seconds": 40.0,
    "train": {"alignment_score": 0.75, "worst_group": 0.5, "worst_group_name": "Japan"},
    "held_out": None,
    "groups": {"Japan": 0.5},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def log() -> LogConfig:
    return LogConfig(prometheus_port=free_port())


def scrape(log: LogConfig) -> Samples:
    url = f"http://{log.prometheus_host}:{log.prometheus_port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"pluralllm_{name}", tuple(sorted(labels.items()))]


def scraped(log: LogConfig, *rounds: Mapping[str, Any], config: RunConfig | None = None) -> Samples:
    """What is served after these rounds."""
    sink = Prometheus(log, (config or RunConfig()).to_flat())
    try:
        for step, metrics in enumerate(rounds, start=1):
            sink.log(metrics, step)
        return scrape(log)
    finally:
        sink.close()


def test_a_round_is_served(log: LogConfig) -> None:
    samples = scraped(log, METRICS)
    assert value(samples, "round") == 1
    assert value(samples, "rounds_planned") == 30
    assert value(samples, "clients") == 2
    assert value(samples, "train_loss") == 1.5
    assert value(samples, "alignment_score_mean", role="train") == 0.75
    assert value(samples, "alignment_score_worst", role="train") == 0.5
    assert value(samples, "last_round_seconds") == 40


def test_failures_and_bytes_add_up_and_scores_stay(log: LogConfig) -> None:
    failing = {"evaluation_failures": {"Spain": "KeyError: 'x'"}}
    not_evaluated = {key: METRICS[key] for key in METRICS if key not in ("train", "held_out")}
    samples = scraped(log, METRICS | failing, not_evaluated)
    count = {
        (phase, cause): value(samples, "failures_total", phase=phase, cause=cause)
        for phase in ("train", "evaluate")
        for cause in ("lost", "timeout", "raised", "rejected", "other")
    }
    assert {key: number for key, number in count.items() if number} == {
        ("train", "timeout"): 2,
        ("train", "rejected"): 2,
        ("evaluate", "raised"): 1,
    }
    assert value(samples, "sent_bytes_total") == 600_000
    assert value(samples, "received_bytes_total") == 200_000
    assert value(samples, "alignment_score_mean", role="train") == 0.75


def test_seconds_are_a_histogram_of_rounds_of_training(log: LogConfig) -> None:
    sink = Prometheus(log, RunConfig().to_flat())
    try:
        sink.log(METRICS | {"seconds": 100.0}, 0)  # before the first
        for step, seconds in enumerate((3.0, 50.0, 70.0), start=1):
            sink.log(METRICS | {"seconds": seconds}, step)
        sink.log({"stopped": "budget", "seconds": 1000.0}, 3)
        samples = scrape(log)
    finally:
        sink.close()
    assert value(samples, "round_seconds_count") == 3
    assert value(samples, "round_seconds_sum") == 123
    assert value(samples, "round_seconds_bucket", le="5.0") == 1
    assert value(samples, "round_seconds_bucket", le="60.0") == 2
    assert value(samples, "last_round_seconds") == 70


@pytest.mark.parametrize(("spent", "shown"), [(2.5, 2.5), (None, float("inf"))])
def test_epsilon_is_named_with_unit_and_delta(
    log: LogConfig, spent: float | None, shown: float
) -> None:
    promise = {"unit": "client", "epsilon": spent, "delta": 1e-5}
    samples = scraped(log, {"privacy": promise})
    assert value(samples, "privacy_epsilon", unit="client", delta="1e-05") == shown


def test_nothing_is_served_that_a_round_does_not_log(log: LogConfig) -> None:
    """As with hidden cohorts or `privacy.metrics = "off"`: not even zeros."""
    names = {name for name, _ in scraped(log, {})}
    assert names == {"pluralllm_round", "pluralllm_rounds_planned", "pluralllm_run_info"}


def test_labels_are_bounded(log: LogConfig) -> None:
    """No group, client or reason becomes a label."""
    samples = scraped(log, METRICS)
    texts = {text for _, labels in samples for pair in labels for text in pair}
    assert not any("Japan" in text or "Peru" in text or "nan" in text for text in texts)


def test_the_run_is_described(log: LogConfig) -> None:
    (labels,) = (dict(l) for name, l in scraped(log, {}) if name == "pluralllm_run_info")  # noqa: E741
    assert labels.pop("version")
    assert labels == {
        "data_source": "synthetic",
        "strategy_name": "fedavg",
        "privacy_unit": "none",
        "engine_name": "flower",
    }


def test_the_endpoint_is_there_while_sinks_are_open_and_closes_with_them(
    log: LogConfig, tmp_path: Path
) -> None:
    for _ in range(2):  # the same port serves the next run
        with closing_sinks(log, tmp_path, RunConfig().to_flat()) as sinks:
            for sink in sinks:
                sink.log(METRICS, 4)
            assert value(scrape(log), "round") == 4
            assert value(scrape(log), "round") == 4
        with pytest.raises(urllib.error.URLError):
            scrape(log)


def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    with closing_sinks(LogConfig(), tmp_path, RunConfig().to_flat()) as sinks:
        assert not any(isinstance(sink, Prometheus) for sink in sinks)


def test_a_port_in_use_stops_a_run_before_it_starts(log: LogConfig, tmp_path: Path) -> None:
    config = cohort_config()
    config = replace(config, run=replace(config.run, directory=str(tmp_path / "run")), log=log)
    with socket.create_server((log.prometheus_host, log.prometheus_port)):
        with pytest.raises(ConfigError, match=rf"prometheus-port = {log.prometheus_port}") as why:
            simulate(config)
        with pytest.raises(ConfigError, match="Choose another port"):
            Prometheus(log, RunConfig().to_flat())
    assert "in use" in str(why.value)
    assert not (tmp_path / "run").exists()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"prometheus-host = '192\.0\.2\.1'"):
        check_sinks(LogConfig(prometheus_port=free_port(), prometheus_host="192.0.2.1"))


def test_a_run_serves_what_it_logs(
    log: LogConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(update: Any, index: int) -> Any:
        update.values_KP[index] = float("nan")
        return update

    change_training(monkeypatch, FAULTY, spoil)
    seen: list[Samples] = []
    close = Prometheus.close
    monkeypatch.setattr(
        Prometheus, "close", lambda self: (seen.append(scrape(log)), close(self))[1]
    )
    config = cohort_config()
    simulate(replace(config, run=replace(config.run, directory=str(tmp_path / "run")), log=log))
    (samples,) = seen  # with the last values, until the run is over
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert value(samples, "round") == value(samples, "rounds_planned") == 2
    assert value(samples, "clients") == 2
    assert value(samples, "failures_total", phase="train", cause="rejected") == 2
    sent = sum(round(line["megabytes_down"] * 1e6) for line in logged)
    assert value(samples, "sent_bytes_total") == sent
    for role, key in (("train", "train"), ("held-out", "held_out")):
        last = logged[-1][key]
        assert value(samples, "alignment_score_mean", role=role) == last["alignment_score"]
        assert value(samples, "alignment_score_worst", role=role) == last["worst_group"]
