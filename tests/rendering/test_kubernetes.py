"""The manifests: what kustomize makes of them fits each kind's published schema and the image."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from pytest_copier.plugin import CopierFixture
from rendering_support import KUBERNETES_ANSWERS, tool

Manifest: TypeAlias = dict[str, Any]


@pytest.fixture
def projects(kubernetes_projects: dict[str, Path]) -> dict[str, Path]:
    return kubernetes_projects


@pytest.fixture
def project(kubernetes_project: Path) -> Path:
    return kubernetes_project


def built(project: Path, folder: str = "overlays/production") -> list[Manifest]:
    """Return what ``kubectl apply -k`` would apply."""
    text = tool("kubectl", "kustomize", project / "deploy" / "kubernetes" / folder)
    return list(yaml.safe_load_all(text))


def problem(manifest: Manifest) -> str:
    """Say what is wrong with a manifest; empty if it fits its published schema."""
    import kubernetes_schemas  # noqa: PLC0415 - as slow as the import of all tests

    return kubernetes_schemas.problem(manifest)


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Yield the template of each pod."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["spec"]["template"]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_every_manifest_fits_its_published_schema(project: Path, folder: str) -> None:
    manifests = built(project, folder)

    assert {manifest["kind"]: problem(manifest) for manifest in manifests} == dict.fromkeys(
        (manifest["kind"] for manifest in manifests), ""
    )
    features = KUBERNETES_ANSWERS[project.name]["features"]
    assert isinstance(features, list)
    assert {manifest["kind"] for manifest in manifests} == {
        *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget"),
        *("ScaledObject", "TriggerAuthentication"),
        *(["Job"] if "streams" in features else []),
        *(["PrometheusRule", "Service", "ServiceMonitor"] if "telemetry" in features else []),
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
    worker, *groups = (pod["metadata"]["labels"] for pod in pods(manifests))
    assert len(groups) == ("streams" in KUBERNETES_ANSWERS[project.name]["features"])
    deployment = one(manifests, "Deployment")
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]

    for selector in (
        deployment["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"],
        spread["labelSelector"],
    ):
        assert matches(selector, worker)
        assert not [labels for labels in groups if matches(selector, labels)]
    confined = one(manifests, "NetworkPolicy")["spec"]["podSelector"]
    assert matches(confined, worker)
    assert all(matches(confined, labels) for labels in groups)


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
        # DNS, Redis, and its Sentinels.
        allowed = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert allowed == {53, 6379, 26379}
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
