"""Prometheus' configuration and alerts: they ask for what the coordinator really exports, and each says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from coordinator.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CONFIGURATIONS = ("prometheus.yml", "monitoring/prometheus.yml")
ALERTS = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yml").read_text())
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}


@pytest.fixture
def exported(tmp_path: Path) -> set[str]:
    """Names of the samples that a coordinator can show, whatever their labels."""
    metrics = Metrics()
    metrics.watch(tmp_path, lambda: 0.0)
    families = list(metrics.registry.collect())
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


@pytest.mark.parametrize("alert", RULES)
def test_every_metric_in_an_alert_is_exported(alert: str, exported: set[str]):
    asked = set(re.findall(r"\bfedmentor_\w+", RULES[alert]["expr"]))
    assert asked <= exported
    assert asked or RULES[alert]["expr"] == 'up{job="fedmentor"} == 0'


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_weight_a_summary_and_a_cure(alert: str):
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert "value" not in rule["annotations"]["description"]


def test_the_guide_names_every_alert_and_no_other():
    guide = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    assert re.findall(r"(?m)^\| `([A-Z][a-z]\w+)` \|", guide) == list(RULES)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_finds_its_alerts_and_names_their_job(name: str):
    path = DEPLOY / name
    configuration = yaml.safe_load(path.read_text())
    assert [(path.parent / rules).resolve() for rules in configuration["rule_files"]] == [DEPLOY / "monitoring" / "alerts.yml"]
    assert [job["job_name"] for job in configuration["scrape_configs"]] == ["fedmentor"]


def test_both_configurations_scrape_where_the_compose_file_serves_metrics():
    coordinator = COMPOSE["services"]["coordinator"]
    (alias,) = coordinator["networks"]["operator"]["aliases"]
    port = coordinator["command"][coordinator["command"].index("--metrics") + 1]
    (published,) = coordinator["ports"]
    targets = [
        yaml.safe_load((DEPLOY / name).read_text())["scrape_configs"][0]["static_configs"][0]["targets"] for name in CONFIGURATIONS
    ]
    assert targets == [[f"127.0.0.1:{port}"], [f"{alias}:{port}"]]
    assert published.startswith("127.0.0.1:${FEDMENTOR_METRICS_PORT:-" + port)


def test_prometheus_is_there_only_where_it_is_asked_for_and_its_image_has_a_version():
    service = COMPOSE["services"]["prometheus"]
    assert service["profiles"] == ["monitoring"]
    assert re.search(r":-prom/prometheus:v\d+\.\d+\.\d+}$", service["image"])
    others = [name for name, rules in COMPOSE["services"].items() if "prometheus" in rules.get("depends_on", {})]
    assert others == []
