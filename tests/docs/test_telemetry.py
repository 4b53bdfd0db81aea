"""The dashboard, the alerts and their page speak of metrics that there are, in sound PromQL."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspex_ray.telemetry.export import ATTRIBUTES
from dspex_ray.telemetry.metrics import EVERY
from tests.docs.snippets import ROOT
from tests.docs.test_reference import rows

OPERATIONS = ROOT / "docs" / "operations"
PAGE = OPERATIONS / "telemetry.md"
ALERTS = OPERATIONS / "alerts.yml"
DASHBOARD = OPERATIONS / "grafana-dashboard.json"

METRICS = {metric.name: metric for metric in EVERY}
#: Ray's own; the end-to-end test finds them on a real endpoint
RAYS = {
    "ray_node_disk_free",
    "ray_node_disk_usage",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_num_http_error_requests_total",
}
RAYS_LABELS = {
    "NodeAddress",
    "application",
    "deployment",
    "error_code",
    "ip",
    "le",
    "replica",
}
VARIABLES = {"$__rate_interval": "5m", "$program": ".*", "$model": ".*"}


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    """Every PromQL expression of both, Grafana's variables filled in."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in VARIABLES.items():
        shown = [expression.replace(name, value) for expression in shown]
    return [*(rule["expr"] for rule in alerts().values()), *shown]


def series_of(expression: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z_]+", expression))


def metric_of(series: str) -> str:
    name = series.removeprefix("ray_")
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    histogram = plain in METRICS and METRICS[plain].kind == "histogram"
    return plain if histogram and plain != name else name


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_series_and_labels_that_there_are(expression: str) -> None:
    ours = {metric_of(series) for series in series_of(expression) - RAYS}
    assert ours <= set(METRICS)
    assert series_of(expression)
    for name in ours:  # a histogram has no series of its bare name
        assert (f"ray_{name}" in series_of(expression)) == (METRICS[name].kind != "histogram")
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    selected = re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", expression)
    named = {label.strip() for group in grouped for label in group.split(",")} | set(selected)
    known = {label for name in ours for label in METRICS[name].labels}
    assert named <= known | RAYS_LABELS


def test_every_metric_is_on_the_page() -> None:
    told = [row[:4] for row in rows(PAGE, "Metric")]
    there = [[m.name, m.kind, ", ".join(m.labels) or "-", m.help] for m in EVERY]
    assert told == there


def test_every_attribute_of_ours_is_on_the_page() -> None:
    cells = [row[0] for row in rows(PAGE, "Attribute")]
    told = {name.strip("`") for cell in cells for name in cell.split(", ")}
    ours = {n for n in ATTRIBUTES if n.startswith(("dspex.", "gen_ai.", "error."))}
    assert told == ours | {"http.response.status_code"}


def test_the_page_names_the_variables_that_serve_is_given() -> None:
    from dspex_ray.telemetry.serve import serve_variables

    told = serve_variables({"DSPEX_RAY_TELEMETRY__SPANS_FILE": "true"})
    page = PAGE.read_text(encoding="utf-8")
    hook = told["RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"]
    assert f"RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH={hook}\n" in page
    assert [name for name in told if name not in page] == []


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (board["title"], board["uid"]) == ("dspex-ray", "dspex-ray")
    assert board["schemaVersion"] >= 39
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert names == {"datasource", "program", "model"}
    assert len(panels()) >= 12
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert len({panel["title"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert panel["type"] == "timeseries"
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == list("ABCDE"[: len(letters)]) != []
        assert all(target["legendFormat"] for target in panel["targets"])


def test_no_panel_lies_on_another() -> None:
    places = sorted(
        (panel["gridPos"]["y"], panel["gridPos"]["x"], panel["gridPos"]["w"]) for panel in panels()
    )
    assert all(x + w <= 24 for _, x, w in places)
    for (y, x, w), (next_y, next_x, _) in pairwise(places):
        assert next_y > y or next_x >= x + w


def test_every_alert_says_how_bad_it_is_and_is_tried_out() -> None:
    tried = (OPERATIONS / "alerts_test.yml").read_text(encoding="utf-8")
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert name in tried


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's checker: the machine's, or one of its own that Debian's package brings."""
    own = Path(sys.prefix) / "share" / "promtool"
    found = shutil.which("promtool")
    if found is None and not own.exists():
        if shutil.which("apt-get") is None:
            pytest.skip("promtool is not on the PATH, and without apt it cannot be fetched")
        script = ["bash", str(ROOT / "scripts" / "promtool.sh")]
        fetched = subprocess.run(
            script,
            env={**os.environ, "VENV": sys.prefix},
            check=False,
            capture_output=True,
            text=True,
        )
        assert fetched.returncode == 0, fetched.stderr
    return found or str(own)


def run(promtool: str, *arguments: str) -> str:
    done = subprocess.run(
        [promtool, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.integration
def test_prometheus_takes_the_alerts(promtool: str) -> None:
    assert f"{len(alerts())} rules found" in run(promtool, "check", "rules", str(ALERTS))


@pytest.mark.integration
def test_alerts_are_raised_when_they_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", str(OPERATIONS / "alerts_test.yml"))


@pytest.mark.integration
def test_prometheus_takes_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"r{n}", "expr": text} for n, text in enumerate(expressions())]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", str(file))
