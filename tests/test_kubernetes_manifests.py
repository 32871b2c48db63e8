"""The manifests of examples/kubernetes render, are what Kubernetes takes, and fit together.

They are looked at as `kubectl kustomize` renders them, so kubectl has to be there: `make kubectl`.
The schemas come with kubernetes-validate. The images are in tests/test_examples_kubernetes.py.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sticky_asgi.cli import cli
from sticky_asgi.snapshot import WatchOptions

from .servers import ROOT

FOLDER = ROOT / "examples" / "kubernetes"
KEYS = {"STICKY_SECRET_1": "the first of two keys, long enough", "STICKY_SECRET_2": "k" * 32}

Manifest = dict[str, Any]
Pod = Mapping[str, Any]


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    """Everything that would be applied."""
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is needed; `make kubectl` says how to get it")
    result = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    return list(yaml.safe_load_all(result.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    assert found, f"there is no {kind}"
    return found


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (item for item in of_kind(manifests, kind) if item["metadata"]["name"] == name)
    return found


def pod_of(deployment: Manifest) -> Pod:
    pod: Pod = deployment["spec"]["template"]["spec"]
    return pod


def container_of(deployment: Manifest) -> Mapping[str, Any]:
    (container,) = pod_of(deployment)["containers"]
    made: Mapping[str, Any] = container
    return made


def ports_of(deployment: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container_of(deployment)["ports"]}


def selected(manifests: list[Manifest], labels: Mapping[str, str]) -> set[str]:
    """The names of the deployments whose pods have these labels."""
    return {
        deployment["metadata"]["name"]
        for deployment in of_kind(manifests, "Deployment")
        if labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    }


def options_of(manifests: list[Manifest]) -> dict[str, Any]:
    """The options of `sticky-asgi run` in the gateway's pods. Wrong usage raises."""
    command, *arguments = container_of(one(manifests, "Deployment", "gateway"))["args"]
    with cli.commands[command].make_context(command, arguments) as context:
        return context.params


def settings_of(manifests: list[Manifest]) -> dict[str, Any]:
    """The gateway's own configuration file."""
    text = one(manifests, "ConfigMap", "gateway-config")["data"]["gateway.yaml"]
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def keys_of(manifests: list[Manifest]) -> dict[str, str]:
    (secret,) = of_kind(manifests, "Secret")
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


# Schema


@pytest.mark.parametrize(
    "version",
    [
        pytest.param("1.25", id="old"),
        pytest.param(kubernetes_validate.latest_version(), id="latest"),
    ],
)
def test_every_object_is_one_that_kubernetes_takes(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def misspell_a_field(deployment: Manifest) -> None:
    deployment["spec"]["replica"] = deployment["spec"].pop("replicas")


def misspell_deep_inside(deployment: Manifest) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["livenessProbe"]["httpGet"]["url"] = "/"


def give_a_wrong_type(deployment: Manifest) -> None:
    deployment["spec"]["replicas"] = "two"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(misspell_a_field, id="field"),
        pytest.param(misspell_deep_inside, id="deep inside"),
        pytest.param(give_a_wrong_type, id="type"),
    ],
)
def test_the_schema_check_is_strict(
    manifests: list[Manifest], spoil: Callable[[Manifest], None]
) -> None:
    deployment = copy.deepcopy(one(manifests, "Deployment", "gateway"))
    spoil(deployment)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.25", strict=True)


def test_every_file_is_rendered(manifests: list[Manifest]) -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml")}
    assert {*kustomization["resources"], "kustomization.yaml"} == files


# Names and labels


def test_everything_is_in_the_one_namespace(manifests: list[Manifest]) -> None:
    (namespace,) = of_kind(manifests, "Namespace")
    for manifest in manifests:
        if manifest is not namespace:
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


def references_of(deployment: Manifest) -> Iterator[tuple[str, str]]:
    """Kind and name of what a deployment cannot start without."""
    pod = pod_of(deployment)
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for source in container_of(deployment).get("envFrom", []):
        yield "Secret", source["secretRef"]["name"]


def test_what_is_referred_to_is_there(manifests: list[Manifest]) -> None:
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    wanted = {
        reference
        for deployment in of_kind(manifests, "Deployment")
        for reference in references_of(deployment)
    }
    assert {kind for kind, _ in wanted} == {"ServiceAccount", "ConfigMap", "Secret"}
    assert wanted <= there


def test_selectors_find_the_pods_they_are_named_after(manifests: list[Manifest]) -> None:
    for kind in ("Deployment", "PodDisruptionBudget"):
        for manifest in of_kind(manifests, kind):
            labels = manifest["spec"]["selector"]["matchLabels"]
            assert selected(manifests, labels) == {manifest["metadata"]["name"]}
    for service in of_kind(manifests, "Service"):
        assert selected(manifests, service["spec"]["selector"]) == {service["metadata"]["name"]}
    for policy in of_kind(manifests, "NetworkPolicy"):
        labels = policy["spec"]["podSelector"]["matchLabels"]
        assert selected(manifests, labels) == {policy["metadata"]["name"]}
    for deployment in of_kind(manifests, "Deployment"):
        for constraint in pod_of(deployment)["topologySpreadConstraints"]:
            labels = constraint["labelSelector"]["matchLabels"]
            assert selected(manifests, labels) == {deployment["metadata"]["name"]}


def test_images_have_a_tag(manifests: list[Manifest]) -> None:
    images = {container_of(item)["image"] for item in of_kind(manifests, "Deployment")}
    assert images == {"sticky-gateway:1", "sticky-web:1"}


# Ports and probes


def test_services_lead_to_ports_that_containers_have(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        deployment = one(manifests, "Deployment", service["metadata"]["name"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {*ports_of(deployment)}


def test_probes_ask_at_ports_that_containers_have(manifests: list[Manifest]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        container = container_of(deployment)
        for name in ("readinessProbe", "livenessProbe"):
            assert container[name]["httpGet"]["port"] in ports_of(deployment)


def test_the_gateway_listens_where_it_is_looked_for(manifests: list[Manifest]) -> None:
    gateway = one(manifests, "Deployment", "gateway")
    options = options_of(manifests)
    assert ports_of(gateway) == {"http": options["port"]}
    assert options["host"] == "0.0.0.0"


def test_the_gateway_is_asked_where_it_answers(manifests: list[Manifest]) -> None:
    container = container_of(one(manifests, "Deployment", "gateway"))
    path = settings_of(manifests)["admin"].get("path", "/-/sticky")
    asked = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    live, ready = f"{path}/live", f"{path}/ready"
    assert asked == {"startup": live, "readiness": ready, "liveness": live}


def test_the_gateway_has_time_to_find_its_service(manifests: list[Manifest]) -> None:
    probe = container_of(one(manifests, "Deployment", "gateway"))["startupProbe"]
    timeout = WatchOptions().start_timeout
    assert timeout is not None
    assert probe["periodSeconds"] * probe["failureThreshold"] > timeout


# Rights and network


def test_the_gateway_may_read_services_and_slices_and_nothing_else(
    manifests: list[Manifest],
) -> None:
    (role,), (binding,) = of_kind(manifests, "Role"), of_kind(manifests, "RoleBinding")
    rights = {
        (group, resource): {*rule["verbs"]}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    read = {"get", "list", "watch"}
    assert rights == {("", "services"): read, ("discovery.k8s.io", "endpointslices"): read}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = one(manifests, "ServiceAccount", "gateway")["metadata"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"], subject["namespace"]) == (
        "ServiceAccount",
        account["name"],
        account["namespace"],
    )
    pod = pod_of(one(manifests, "Deployment", "gateway"))
    assert pod["serviceAccountName"] == account["name"]
    assert pod["automountServiceAccountToken"] is True


def test_the_app_has_no_token(manifests: list[Manifest]) -> None:
    assert pod_of(one(manifests, "Deployment", "web"))["automountServiceAccountToken"] is False


def allowed(
    manifests: list[Manifest], rules: list[Mapping[str, Any]], peers: str
) -> set[tuple[str, str, int]]:
    """Who may be spoken to, or may speak: deployment or `anyone`, protocol, port of the pod."""
    found = set()
    for rule in rules:
        names = {"anyone"}
        if peers in rule:
            labels = [peer["podSelector"]["matchLabels"] for peer in rule[peers]]
            names = set().union(*(selected(manifests, label) for label in labels))
        for port in rule["ports"]:
            found |= {(name, port["protocol"], port["port"]) for name in names}
    return found


def test_the_gateway_reaches_what_it_needs(manifests: list[Manifest]) -> None:
    spec = one(manifests, "NetworkPolicy", "gateway")["spec"]
    assert {*spec["policyTypes"]} == {"Ingress", "Egress"}
    (pods_port,) = ports_of(one(manifests, "Deployment", "web")).values()
    assert allowed(manifests, spec["egress"], "to") == {
        ("web", "TCP", pods_port),
        ("anyone", "UDP", 53),
        ("anyone", "TCP", 53),
        ("anyone", "TCP", 443),
        ("anyone", "TCP", 6443),
    }
    assert allowed(manifests, spec["ingress"], "from") == {
        ("anyone", "TCP", options_of(manifests)["port"])
    }


def test_nobody_but_the_gateway_reaches_the_app(manifests: list[Manifest]) -> None:
    spec = one(manifests, "NetworkPolicy", "web")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    (port,) = ports_of(one(manifests, "Deployment", "web")).values()
    assert allowed(manifests, spec["ingress"], "from") == {("gateway", "TCP", port)}


def test_the_pods_are_of_the_kind_that_the_namespace_admits(manifests: list[Manifest]) -> None:
    (namespace,) = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in of_kind(manifests, "Deployment"):
        context = pod_of(deployment)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] >= 10_000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        container = container_of(deployment)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        # Elsewhere nobody can write.
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod_of(deployment)["volumes"]}
        assert "emptyDir" in volumes[mounts["/tmp"]]
        assert "memory" in container["resources"]["limits"]


# Configuration


def check(manifests: list[Manifest], keys: dict[str, str], folder: Path) -> tuple[int, str]:
    """What `sticky-asgi check` says of the file in the ConfigMap; exit code and both outputs."""
    data = one(manifests, "ConfigMap", "gateway-config")["data"]
    for name, text in data.items():
        (folder / name).write_text(text, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "sticky_asgi", "check", "gateway.yaml"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | keys,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout + result.stderr


def test_the_configuration_is_right(manifests: list[Manifest], tmp_path: Path) -> None:
    assert {*keys_of(manifests)} == {*KEYS}
    code, text = check(manifests, KEYS, tmp_path)
    assert code == 0, text


def test_the_keys_in_the_example_are_refused(manifests: list[Manifest], tmp_path: Path) -> None:
    code, text = check(manifests, keys_of(manifests), tmp_path)
    assert code == 2
    for number in (0, 1):
        assert f"secrets[{number}]: must have at least 16 bytes" in text


def test_the_file_is_where_it_is_looked_for(manifests: list[Manifest]) -> None:
    gateway = one(manifests, "Deployment", "gateway")
    file = Path(options_of(manifests)["file"])
    (mount,) = (item for item in container_of(gateway)["volumeMounts"] if item["name"] == "config")
    assert Path(mount["mountPath"]) == file.parent
    # A file that is mounted by itself is never changed.
    assert "subPath" not in mount
    assert file.name in one(manifests, "ConfigMap", "gateway-config")["data"]


def test_the_pool_follows_the_service_that_has_the_articles_annotations(
    manifests: list[Manifest],
) -> None:
    (pool,) = settings_of(manifests)["pools"].values()
    followed = pool["discovery"]["kubernetes"]
    service = one(manifests, "Service", followed["service"])
    assert followed["namespace"] == service["metadata"]["namespace"]
    assert followed["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["metadata"]["annotations"] == {
        "traefik.ingress.kubernetes.io/affinity": "true",
        "traefik.ingress.kubernetes.io/session-cookie-name": "traefik-cookie",
    }


def test_other_keys_make_other_pods(manifests: list[Manifest]) -> None:
    # Its variables a process has from its start; with the name of the Secret, the pods change.
    (secret,) = of_kind(manifests, "Secret")
    assert secret["metadata"]["name"].startswith("gateway-keys-")


# Leaving


def test_the_gateway_is_given_the_time_it_takes_to_stop(manifests: list[Manifest]) -> None:
    gateway = one(manifests, "Deployment", "gateway")
    options = options_of(manifests)
    needed = options["shutdown_delay"] + options["graceful_timeout"]
    assert needed + 5 <= pod_of(gateway)["terminationGracePeriodSeconds"] <= needed + 15
    # The delay is instead of a pause before SIGTERM.
    assert "lifecycle" not in container_of(gateway)
    probe = container_of(gateway)["readinessProbe"]
    heard = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert heard < options["shutdown_delay"]


def test_the_app_is_given_its_drain_window(manifests: list[Manifest]) -> None:
    web = one(manifests, "Deployment", "web")
    program, seconds = container_of(web)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    text = (FOLDER / "web" / "Dockerfile").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("CMD "))
    (option,) = (word for word in json.loads(line[4:]) if "graceful-shutdown" in word)
    needed = int(seconds) + int(option.partition("=")[2])
    assert needed + 5 <= pod_of(web)["terminationGracePeriodSeconds"] <= needed + 15


def test_somebody_is_always_left(manifests: list[Manifest]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        replicas = deployment["spec"]["replicas"]
        budget = one(manifests, "PodDisruptionBudget", deployment["metadata"]["name"])["spec"]
        left = budget.get("minAvailable", replicas - budget.get("maxUnavailable", 0))
        assert 1 <= left < replicas
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
