"""The manifests: what kustomize makes of them fits each kind's published schema and the image."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from pytest_copier.plugin import CopierFixture
from rendering_support import UNUSUAL, Answers, environment, tool

Manifest: TypeAlias = dict[str, Any]

KUBERNETES = ("1.31", "1.37")
"""The oldest version with all that the manifests use as stable, and the newest of the package."""

CUSTOM = {model.__name__: model for model in (ScaledObject, TriggerAuthentication, ServiceMonitor)}
"""Kinds that KEDA and the Prometheus operator add, generated from their published schemas."""

ANSWERS: dict[str, Answers] = {
    "plain": {"kubernetes": True},
    "strange": {"kubernetes": True, "telemetry": True, **UNUSUAL},
}


@pytest.fixture(scope="module")
def projects(copier_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kubernetes")
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        return {name: renderer.copy(folder / name, **ANSWERS[name]).path for name in ANSWERS}


@pytest.fixture(params=ANSWERS)
def project(request: pytest.FixtureRequest, projects: dict[str, Path]) -> Path:
    return projects[request.param]


def built(project: Path, folder: str = "overlays/production") -> list[Manifest]:
    """Return what ``kubectl apply -k`` would apply."""
    text = tool("kubectl", "kustomize", project / "deploy" / "kubernetes" / folder)
    return list(yaml.safe_load_all(text))


def problem(manifest: Manifest) -> str:
    """Say what is wrong with a manifest, unknown fields included; empty if it fits its schema."""
    model = CUSTOM.get(manifest["kind"])
    try:
        if model is None:
            for version in KUBERNETES:
                kubernetes_validate.validate(manifest, version, strict=True)
            return ""
        # The models ignore what they do not know, and make numbers of texts.
        fits = model.model_validate(manifest).model_dump(
            by_alias=True, exclude_unset=True, mode="json"
        )
    except (kubernetes_validate.ValidationError, ValueError) as exc:
        return str(exc)
    return "" if fits == manifest else f"of {manifest} only {fits} is known"


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Yield the template of each pod."""
    for kind in ("Deployment", "Job"):
        yield one(manifests, kind)["spec"]["template"]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_every_manifest_fits_its_published_schema(project: Path, folder: str) -> None:
    manifests = built(project, folder)

    assert {manifest["kind"]: problem(manifest) for manifest in manifests} == dict.fromkeys(
        (manifest["kind"] for manifest in manifests), ""
    )
    telemetry = {"Service", "ServiceMonitor"} if "strange" in str(project) else set()
    assert {manifest["kind"] for manifest in manifests} - telemetry == {
        *("ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget"),
        *("ScaledObject", "TriggerAuthentication"),
    }


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("Deployment", "spec.strategy.rollingUpdate.maxSurg", 1),
        ("Deployment", "spec.template.spec.containers", {}),
        ("PodDisruptionBudget", "spec.unhealthyPodEviction", "AlwaysAllow"),
        ("ScaledObject", "spec.maxReplicas", 3),
        ("ScaledObject", "spec.maxReplicaCount", "3"),
        ("ScaledObject", "spec.scaleTargetRef", None),
        ("ServiceMonitor", "spec.selector.matchLabel", {}),
        ("TriggerAuthentication", "spec.secretTargetRef", "redis"),
    ],
)
def test_a_manifest_that_does_not_fit_would_be_found(
    projects: dict[str, Path], kind: str, place: str, value: object
) -> None:
    manifest = one(built(projects["strange"]), kind)
    *way, last = place.split(".")
    inside = manifest
    for name in way:
        inside = inside[name]
    inside[last] = value

    assert problem(manifest)


def test_each_patch_and_file_has_its_use(project: Path) -> None:
    """A patch without target or a missing file is refused, but a forgotten one is not."""
    kustomizations = [*(project / "deploy").rglob("kustomization.yaml")]
    for kustomization in kustomizations:
        text = kustomization.read_text("utf-8")
        for path in kustomization.parent.iterdir():
            listed = re.search(rf"[-\[] ?(path: )?{re.escape(path.name)}\b", text)
            assert listed or path == kustomization, path
    assert len(kustomizations) == 2


def test_pods_are_confined(project: Path) -> None:
    dockerfile = (project / "Dockerfile").read_text("utf-8")
    (user,) = re.findall(r"^USER (\d+):\1$", dockerfile, re.MULTILINE)
    for pod in pods(built(project)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": int(user),
            "runAsGroup": int(user),
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_probes_run_the_probe_of_the_image(project: Path) -> None:
    dockerfile = (project / "Dockerfile").read_text("utf-8")
    (command,) = re.findall(r'CMD \["python", (.*), "live"\]', dockerfile)
    live = ["python", *re.findall(r'"([^"]+)"', command), "live"]
    spec = one(built(project), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert container["startupProbe"]["exec"]["command"] == live
    assert container["livenessProbe"]["exec"]["command"] == live
    assert container["readinessProbe"]["exec"]["command"] == [*live[:-1], "ready"]
    (health_file,) = re.findall(r"WORKER_HEALTH_FILE=(\S+)", dockerfile)
    (volume,) = spec["volumes"]
    (mount,) = container["volumeMounts"]
    assert (volume["name"], volume["emptyDir"]["medium"]) == (mount["name"], "Memory")
    assert mount["mountPath"] == str(Path(health_file).parent)


def test_selectors_mean_the_worker_and_not_the_job(project: Path) -> None:
    manifests = built(project)
    worker, groups = (pod["metadata"]["labels"] for pod in pods(manifests))
    deployment = one(manifests, "Deployment")
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]

    for selector in (
        deployment["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"],
        spread["labelSelector"],
    ):
        assert matches(selector, worker)
        assert not matches(selector, groups)
    confined = one(manifests, "NetworkPolicy")["spec"]["podSelector"]
    assert matches(confined, worker)
    assert matches(confined, groups)


def test_names_refer_to_what_is_there(project: Path) -> None:
    manifests = built(project)
    settings = one(manifests, "ConfigMap")["metadata"]["name"]
    login = one(manifests, "TriggerAuthentication")
    scaled = one(manifests, "ScaledObject")["spec"]
    secrets: set[str] = {ref["name"] for ref in login["spec"]["secretTargetRef"]}
    for pod in pods(manifests):
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": settings}}]
        (dsn,) = container["env"]
        assert dsn["name"] == dsn["valueFrom"]["secretKeyRef"]["key"] == "WORKER_REDIS_DSN"
        secrets.add(dsn["valueFrom"]["secretKeyRef"]["name"])
        assert container["image"].startswith("registry.example.com/")

    (secret,) = secrets
    assert secret in (project / "README.md").read_text("utf-8")
    deployment = one(manifests, "Deployment")
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # KEDA's business
    for trigger in scaled["triggers"]:
        assert trigger["authenticationRef"] == {"name": login["metadata"]["name"]}
    # KEDA names the autoscaler keda-hpa-…, and labels it so.
    assert len(one(manifests, "ScaledObject")["metadata"]["name"]) <= 63 - len("keda-hpa-")
    for manifest in manifests:
        assert manifest["metadata"]["namespace"] == deployment["metadata"]["name"]


def test_triggers_are_of_a_kind_that_keda_knows(project: Path) -> None:
    """Their metadata is free text to the schema: KEDA drops a mistyped name in silence."""
    known = {
        "redis-streams": {"stream", "consumerGroup", "activationLagCount", "lagCount"},
        "redis": {"listName", "listLength", "activationListLength"},
    }
    known["redis-streams"] |= {"pendingEntriesCount"}
    for trigger in one(built(project), "ScaledObject")["spec"]["triggers"]:
        metadata = trigger["metadata"]
        assert metadata.keys() <= known[trigger["type"]]
        assert all(isinstance(value, str) for value in metadata.values())
        # Of the two, KEDA would look at the lag only.
        assert not {"lagCount", "pendingEntriesCount"} <= metadata.keys()


def test_only_redis_dns_and_prometheus_are_let_through(projects: dict[str, Path]) -> None:
    for name, ports in (("plain", []), ("strange", ["metrics"])):
        policy = one(built(projects[name]), "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert [rule["ports"][0]["port"] for rule in policy.get("ingress", [])] == ports
        assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 6379}
        assert all(rule["to"] for rule in policy["egress"])


def test_prometheus_finds_every_worker(projects: dict[str, Path]) -> None:
    manifests = built(projects["strange"])
    service, monitor = one(manifests, "Service"), one(manifests, "ServiceMonitor")
    worker = one(manifests, "Deployment")["spec"]["template"]
    (container,) = worker["spec"]["containers"]
    (port,) = container["ports"]
    (exposed,) = service["spec"]["ports"]
    (endpoint,) = monitor["spec"]["endpoints"]

    assert service["spec"]["selector"].items() <= worker["metadata"]["labels"].items()
    assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert endpoint["port"] == exposed["name"]
    assert exposed["targetPort"] == port["name"]
    set_to = one(manifests, "ConfigMap")["data"]["WORKER_METRICS_PORT"]
    assert set_to == str(port["containerPort"]) == str(exposed["port"])


def test_nothing_of_it_is_there_unasked(copier: CopierFixture, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "project").path
    for path in project.rglob("*"):
        relative = path.relative_to(project).as_posix()
        assert "kube" not in relative
        if path.is_file() and "/workerbase/" not in relative and relative != "README.md":
            assert not re.search("kustomize|keda", path.read_text("utf-8"), re.IGNORECASE), relative


# --- one source of limits

BASE, OVERLAY = "deploy/kubernetes/base/", "deploy/kubernetes/overlays/production/"
DEPLOYMENT, SCALED = BASE + "deployment.yaml", BASE + "scaled-object.yaml"
SETTINGS, WORKER = "src/my_worker/settings.py", "src/my_worker/worker.py"


def setting(line: str) -> tuple[str, str, str]:
    return (SETTINGS, '    consumer_group: str = "my-worker"', f"\\g<0>\n    {line}")


CHANGED_ALONE = [
    # The configuration, in each place where it can be set; and every file that has to follow.
    (setting("job_timeout: float = 300"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("handler_timeout: float = 90"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("drain_timeout: float | None = 20"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("heartbeat_interval: float = 3"), ["Dockerfile: ", f"{DEPLOYMENT}: .*live.*period"]),
    (setting("lease_timeout: float = 30"), [f"{DEPLOYMENT}: .*minReadySeconds is 15"]),
    (setting("concurrency: int = 40"), [f"{SCALED}: .* pendingEntriesCount is not 540"]),
    (setting("concurrency: int = 400"), [f"{SCALED}: .* lagCount is less than .* 400"]),
    (setting("prefetch: int = 0"), [f"{SCALED}: .* pendingEntriesCount is not 20"]),
    (setting("max_jobs: int = 50"), [f"{SCALED}: .* listLength is not WORKER_MAX_JOBS, 50"]),
    (setting("max_jobs: int = 900"), [f"{OVERLAY}scaled-object.yaml: maxReplicaCount is 20"]),
    (setting('queue_name: str = "jobs"'), [f"{SCALED}: .* runs the jobs of jobs"]),
    (
        (SETTINGS, 'consumer_group: str = ".*"', 'consumer_group: str = "others"'),
        [f"{SCALED}: .* consumerGroup is not WORKER_CONSUMER_GROUP, others"],
    ),
    (
        (WORKER, "router = events", "\\g<0>\n    job_timeout = 120"),
        ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"],
    ),
    (
        (OVERLAY + "worker.env", r"\Z", "WORKER_LEASE_TIMEOUT=5\n"),
        [f"{DEPLOYMENT}: .*livenessProbe.terminationGracePeriodSeconds is 15, .* makes it 5"],
    ),
    (
        ("src/my_worker/handlers.py", 'stream="orders"', 'stream="parcels"'),
        [rf"{SCALED}: .* lagCount .* \['orders'\], .* \['parcels'\]"],
    ),
    (
        (
            WORKER,
            r"(?s)\Z",
            "    cron_jobs = (cron(send_confirmation.for_arq().coroutine, minute=0),)\n",
        ),
        [f"{SCALED}: minReplicaCount has to be 1"],
    ),
    # The files.
    (("compose.yaml", "(?<=stop_grace_period: )75s", "60s"), ["compose.yaml: stop"]),
    (("compose.yaml", "WORKER_REDIS_DSN", "WORKER_JOB_TIMEOUT: 99\n      \\g<0>"), ["compose.y"]),
    (("Dockerfile", "--interval=5s", "--interval=30s"), ["Dockerfile: "]),
    ((DEPLOYMENT, "GracePeriodSeconds: 75", "GracePeriodSeconds: 30"), [f"{DEPLOYMENT}: .* 30"]),
    ((DEPLOYMENT, "GracePeriodSeconds: 15", "GracePeriodSeconds: 75"), [f"{DEPLOYMENT}: .*live"]),
    ((DEPLOYMENT, "minReadySeconds: 15", "minReadySeconds: 0"), [f"{DEPLOYMENT}: .*minReady"]),
    ((DEPLOYMENT, "periodSeconds: 10", "periodSeconds: 5"), [f"{DEPLOYMENT}: .*period"]),
    ((SCALED, '"520"', '"5"'), [f"{SCALED}: .* pendingEntriesCount is not 520"]),
    ((SCALED, '"100"', '"5"'), [f"{SCALED}: .* lagCount is less"]),
    ((SCALED, '"20"', '"5"'), [f"{SCALED}: .* listLength is not"]),
    ((SCALED, 'activationLagCount: "0"', 'activationLagCount: "1"'), [f"{SCALED}: .* is not 0"]),
    ((OVERLAY + "scaled-object.yaml", "20", "300"), [f"{OVERLAY}scaled-object.yaml: maxReplicaC"]),
    ((BASE + "worker.env", r"\Z", "# redis://me:secret@host\n"), ["DSN belongs into the secret"]),
]


def check_limits(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the project's own tests of its limits."""
    tests = ("tests/test_limits.py", "tests/test_kubernetes.py")
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "--noconftest")
    ours = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--tb=line", *tests],
        cwd=project,
        env=environment() | ours | {"PYTHONPATH": str(project / "src")},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("change", "named"),
    CHANGED_ALONE,
    ids=[f"{Path(c[0]).name}: {c[2].strip().rpartition('    ')[2]}" for c, _ in CHANGED_ALONE],
)
def test_what_is_changed_alone_is_found_and_the_file_is_named(
    projects: dict[str, Path], change: tuple[str, str, str], named: list[str]
) -> None:
    project = projects["plain"]
    file, pattern, by = change
    path = project / file
    before = path.read_text("utf-8")
    after, count = re.subn(pattern, by, before)
    assert count
    if "cron(" in by:
        after = after.replace("from .", "from arq import cron\n\nfrom .", 1)
    path.write_text(after, "utf-8")
    try:
        found = check_limits(project)
    finally:
        path.write_text(before, "utf-8")

    assert found.returncode == 1, found.stdout
    for sentence in named:
        assert re.search(sentence, found.stdout), f"{sentence}\n{found.stdout}"


def test_unchanged_limits_agree(project: Path) -> None:
    found = check_limits(project)

    assert found.returncode == 0, found.stdout
