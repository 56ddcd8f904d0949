"""Alert rules and dashboard name what a worker really exports; promtool tests the rules."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from arq.connections import ArqRedis
from deploykit import ALERTS, ALERTS_TEST, PROMETHEUS, rules, targets
from metered_worker import Order, WorkerSettings
from meterkit import Scrape, Start
from promql import problems, read
from workerbase.console.pauses import begin
from workerbase.process.settings import resolved_settings
from workerbase.streams.publish import publish
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

OF_KEDA = {"keda_scaler_active": {"namespace", "scaledObject", "scaler", "metric"}}
"""What a rule needs that is not a worker's: KEDA's operator exports it."""


@pytest.fixture(params=["steady", "scaled", "jobs"])
def project(request: pytest.FixtureRequest, projects: dict[str, Path]) -> Path:
    """A rendered worker that always runs, that KEDA starts and stops, or that has jobs only."""
    return projects[request.param]


def queries(project: Path) -> dict[str, str]:
    """Return each expression by where it is."""
    of_rules = {f"alert {rule['alert']}": str(rule["expr"]) for rule in rules(project)}
    return of_rules | {f"panel {where}": q["expr"] for where, q in targets(project).items()}


@pytest.fixture
async def scraped(redis: ArqRedis, client: RedisClient, server: Server, start: Start) -> Scrape:
    """What a worker exports after it handled and gave up a message and a job."""
    worker = start(server, METERED_HISTORY="1")
    await begin(client, resolved_settings(WorkerSettings), "event", "order.cancelled", who="me")
    await publish(client, Order(how="fine"), Order(how="refused"))
    for how in ("fine", "refused"):
        await redis.enqueue_job("ship", how)
    return worker.scrape_until(
        lambda s: (
            "worker_dlq_newest_entries" in s.labels
            and s.value("worker_paused", kind="event", name="order.cancelled") == 1
            and s.attempts("message", "dead_lettered")
            and s.attempts("job", "dead_lettered")
        ),
        "all is exported",
    )


async def test_every_query_names_metrics_and_labels_that_a_worker_exports(
    scraped: Scrape, projects: dict[str, Path]
) -> None:
    for name, project in projects.items():
        exported = scraped.labels | (OF_KEDA if name == "scaled" else {})
        for where, expression in queries(project).items():
            assert read(expression).metrics, where
            assert problems(expression, exported) == [], where
    # And each metric of ours is used.
    families = {family.name for family in scraped.families if family.name.startswith("worker_")}
    text = " ".join(queries(projects["steady"]).values())
    assert {name for name in families if name not in text} == {
        "worker_stream_consumers",
        "worker_stream_other_group_oldest_seconds",
    }
    # Without streams there is nothing about them.
    jobs_only = " ".join(queries(projects["jobs"]).values())
    assert "worker_stream" not in jobs_only
    assert "worker_breaker" not in jobs_only


async def test_names_follow_the_conventions(scraped: Scrape) -> None:
    for family in scraped.families:
        if not family.name.startswith("worker_"):
            continue
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter"), sample.name
        # Base units, last in the name; a reserved label would be renamed at each scrape.
        assert not re.search(r"_(ms|milliseconds|minutes|percent)\b", family.name)
        labels = scraped.labels.get(family.name, set())
        assert not labels & {"job", "instance", "le", "quantile"}


def test_the_reader_of_expressions_finds_what_is_wrong() -> None:
    exported = {"a_total": {"kind"}, "b_bucket": {"kind", "le"}}
    rate = 'rate(b_bucket{kind=~"x{y}"}[5m])'
    good = f"histogram_quantile(0.9, sum by (job, le) ({rate})) > 1e3 or a_total"

    assert read(good).metrics == {"b_bucket": {"kind"}, "a_total": set()}
    assert problems("sum by (kind, job) (rate(a_total[$__rate_interval])) / 2", exported) == []
    assert problems("rate(c_total[5m])", exported) == ["c_total is not a metric"]
    assert problems('a_total{knd="x"}', exported) == ["a_total has no label knd"]
    assert problems("sum by (le) (a_total)", exported) == ["not all have the label le"]
    assert problems("a_total == 0 and on (le) b_bucket", exported) == ["not all have the label le"]


def test_every_alert_has_a_summary_and_is_tested_both_ways(project: Path) -> None:
    tests = yaml.safe_load((project / PROMETHEUS / ALERTS_TEST).read_text("utf-8"))["tests"]
    tested = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in tested if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in tested if not case.get("exp_alerts")}
    names = [rule["alert"] for rule in rules(project)]

    assert len(names) == len(set(names))
    assert set(names) == fires == quiet
    for rule in rules(project):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_every_alert_has_a_runbook(project: Path) -> None:
    text = (project / "docs/runbook.md").read_text("utf-8")
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules(project)]
    for rule in rules(project):
        address = rule["annotations"]["runbook_url"]
        assert address.endswith(f"/blob/main/docs/runbook.md#{rule['alert'].lower()}")


def test_the_manifest_for_the_operator_has_the_same_rules(projects: dict[str, Path]) -> None:
    project = projects["scaled"]
    manifest = project / "deploy/kubernetes/base/prometheus-rule.yaml"
    found = yaml.safe_load(manifest.read_text("utf-8"))
    assert found["kind"] == "PrometheusRule"
    (group,) = found["spec"]["groups"]
    assert (group["name"], group["rules"]) == ("worker", rules(project))
    resources = yaml.safe_load((manifest.parent / "kustomization.yaml").read_text("utf-8"))
    assert "prometheus-rule.yaml" in resources["resources"]


def test_promtool_accepts_the_rules_and_their_tests(project: Path, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        # The other tests hold every name; `nox -s prometheus` fetches it and runs this one.
        pytest.skip("no promtool here")
    folder = tmp_path / "rules"
    shutil.copytree(project / PROMETHEUS, folder)
    text = (folder / ALERTS).read_text("utf-8")

    def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [promtool, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    for arguments in (("check", "rules", ALERTS), ("test", "rules", ALERTS_TEST)):
        done = tool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    # A rule that never fires is noticed.
    for rule in rules(project):
        mute = text.replace(f"- alert: {rule['alert']}\n", f"- alert: {rule['alert']}Muted\n")
        assert mute != text
        (folder / ALERTS).write_text(mute)
        assert tool("test", "rules", ALERTS_TEST).returncode != 0, rule["alert"]
    (folder / ALERTS).write_text(text)
    # So is one that KEDA's metric would not silence, or that another service would.
    for part in re.findall(r"unless on .*\n|\{(?:package|scaledObject)=.*?\}", text):
        (folder / ALERTS).write_text(text.replace(part, "\n" if "unless" in part else ""))
        assert tool("test", "rules", ALERTS_TEST).returncode != 0, part
