"""What manifests refer to is there: secrets and their keys, volumes, accounts, pods behind selectors and ports."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manifests import OVERLAYS, TRAININGS, Document, Manifests, Pod, ray_cluster, router_labels, selects

Build = Callable[[str], Manifests]
_EVERYBODY = ("default-deny", "dns")  # policies for all pods


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, build: Build) -> Manifests:
    return build(request.param)


@pytest.fixture
def trainings(build: Build) -> list[Pod]:
    """Pods that are started by hand, in the name space of an overlay."""
    return [pod for folder in TRAININGS for pod in build(folder).pods]


def _secret_keys(pod: Pod) -> Iterator[tuple[str, str | None]]:
    """The secrets that a pod reads, each with the key where it names one."""
    for container in pod.containers:
        for source in container.get("envFrom", []):
            yield source["secretRef"]["name"], None
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                yield variable["valueFrom"]["secretKeyRef"]["name"], variable["valueFrom"]["secretKeyRef"]["key"]
    for volume in pod.spec.get("volumes", []):
        if "secret" in volume:
            yield volume["secret"]["secretName"], None


def test_secrets_volumes_and_accounts_are_there(overlay: Manifests, trainings: list[Pod]) -> None:
    """A pod that waits for a Secret nobody makes stays in ContainerCreating for ever."""
    secrets = {one["metadata"]["name"]: one["data"] for one in overlay.of("Secret")}
    claims = {one["metadata"]["name"] for one in overlay.of("PersistentVolumeClaim")}
    accounts = {one["metadata"]["name"] for one in overlay.of("ServiceAccount")}
    for pod in [*overlay.pods, *trainings]:
        for name, key in _secret_keys(pod):
            assert name in secrets, (pod.owner, name)
            assert key is None or key in secrets[name], (pod.owner, name, key)
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert used <= claims, pod.owner
        assert {mount["name"] for one in pod.containers for mount in one["volumeMounts"]} <= set(volumes), pod.owner
        assert pod.spec["serviceAccountName"] in accounts, pod.owner


def test_s3_credentials_have_the_names_that_boto_reads(overlay: Manifests) -> None:
    expected = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"}
    assert set(overlay.one("Secret", "v2meow-s3")["data"]) == expected


def test_no_secret_is_given_a_value_by_default(overlay: Manifests) -> None:
    """The examples hold places for credentials, and none."""
    data = overlay.one("Secret", "v2meow-s3")["data"]
    assert not data["AWS_ACCESS_KEY_ID"]
    assert not data["AWS_SECRET_ACCESS_KEY"]


def test_all_is_in_one_name_space(overlay: Manifests) -> None:
    name = overlay.one("Namespace")["metadata"]["name"]
    others = [one for one in overlay.documents if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in others} == {name}


def _all_labels(overlay: Manifests, trainings: list[Pod]) -> list[dict[str, str]]:
    routers = [router_labels(graph) for graph in overlay.of("InferenceGraph")]
    return [pod.labels for pod in [*overlay.pods, *trainings]] + routers


def _peers(policy: Document) -> Iterator[Document]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in policy["spec"].get(direction, []):
            yield from (peer["podSelector"] for peer in rule[side] if "podSelector" in peer)


def test_policies_select_pods_that_exist(overlay: Manifests, trainings: list[Pod]) -> None:
    """A policy whose labels are misspelt opens nothing, or closes nothing."""
    labels = _all_labels(overlay, trainings)
    for policy in overlay.of("NetworkPolicy"):
        name = policy["metadata"]["name"]
        for selector in [policy["spec"]["podSelector"], *_peers(policy)]:
            assert any(selects(selector, one) for one in labels), (name, selector)


def test_every_pod_has_its_own_policy(overlay: Manifests, trainings: list[Pod]) -> None:
    """Behind the policy that denies all, a pod without one of its own can talk to nobody."""
    policies = overlay.of("NetworkPolicy")
    deny = next(one["spec"] for one in policies if one["metadata"]["name"] == "default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    own = [one["spec"]["podSelector"] for one in policies if one["metadata"]["name"] not in _EVERYBODY]
    for labels in _all_labels(overlay, trainings):
        assert any(selects(selector, labels) for selector in own), labels


def test_open_ports_are_those_of_the_pods(overlay: Manifests, trainings: list[Pod]) -> None:
    for policy in overlay.of("NetworkPolicy"):
        ports = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])}
        pods = [pod for pod in [*overlay.pods, *trainings] if selects(policy["spec"]["podSelector"], pod.labels)]
        if pods:
            listened = {
                port["containerPort"] for pod in pods for one in pod.containers for port in one.get("ports", [])
            }
            assert ports <= listened, policy["metadata"]["name"]


def test_nobody_reaches_the_metadata_service_of_a_cloud(overlay: Manifests) -> None:
    """Whoever reads 169.254.169.254 has the node's credentials."""
    for policy in overlay.of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert all("169.254.0.0/16" in block["except"] for block in blocks), policy["metadata"]["name"]


def test_dashboards_and_jobs_are_open_to_their_users_alone(overlay: Manifests) -> None:
    """Whoever reaches port 8265 of a Ray cluster runs code in it; hence the token, too."""
    clients = {"namespaceSelector": {"matchLabels": {"v2meow.io/clients": "allowed"}}}
    for policy in overlay.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if clients in rule["from"]:
                assert rule["ports"], policy["metadata"]["name"]
                assert all(port["port"] in (8000, 8080, 8081) for port in rule["ports"]), policy["metadata"]["name"]
    for service in overlay.of("RayService"):
        assert ray_cluster(service)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("folder", TRAININGS)
def test_trainings_ask_for_a_token(folder: str, build: Build) -> None:
    (document,) = build(folder).documents
    assert ray_cluster(document)["authOptions"] == {"mode": "token"}


def test_services_budgets_and_monitors_select_pods_that_exist(overlay: Manifests, trainings: list[Pod]) -> None:
    pods = [*overlay.pods, *trainings]
    for service in overlay.of("Service"):
        behind = [pod for pod in pods if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        names = {port["name"] for pod in behind for one in pod.containers for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for budget in overlay.of("PodDisruptionBudget"):
        assert budget["spec"]["minAvailable"] >= 1
        assert any(selects(budget["spec"]["selector"], pod.labels) for pod in overlay.pods), budget["metadata"]
    for monitor in overlay.of("PodMonitor"):
        watched = [pod for pod in pods if selects(monitor["spec"]["selector"], pod.labels)]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert watched
            for pod in watched:
                assert endpoint["port"] in {port["name"] for one in pod.containers for port in one["ports"]}, pod.owner


@pytest.mark.parametrize("folder", [one for one in OVERLAYS if "prod" in one])
def test_production_survives_a_drained_node(folder: str, build: Build) -> None:
    """Whatever serves has a budget that keeps one, and more than one, lest a drain wait for ever."""
    manifests = build(folder)
    budgets = [one["spec"]["selector"] for one in manifests.of("PodDisruptionBudget")]
    for service in manifests.of("RayService"):
        for group in ray_cluster(service)["workerGroupSpecs"]:
            assert any(selects(budget, group["template"]["metadata"]["labels"]) for budget in budgets)
            assert group["minReplicas"] >= 2
    for service in manifests.of("InferenceService"):
        predictor = service["spec"]["predictor"]
        assert any(selects(budget, predictor["labels"]) for budget in budgets), service["metadata"]["name"]
        assert predictor["minReplicas"] >= 2


@pytest.mark.parametrize("folder", [*OVERLAYS, *TRAININGS])
def test_pods_are_as_restricted_as_can_be(folder: str, build: Build) -> None:
    """What Pod Security's level `restricted` asks for, and more: the name space refuses other pods."""
    for pod in build(folder).pods:
        context: dict[str, Any] = pod.spec["securityContext"]
        assert context["runAsNonRoot"], pod.owner
        assert context["runAsUser"] == 10001, pod.owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
        for container in pod.containers:
            _check_container(container, pod.owner)
            assert pod.mounted("/tmp").get("emptyDir"), pod.owner
        token = pod.spec["automountServiceAccountToken"]
        assert token == (pod.labels.get("v2meow.io/role") == "head"), (pod.owner, "only Ray's autoscaler needs it")
    for document in build(folder).documents:
        if document["kind"] in ("RayService", "RayJob", "RayCluster"):
            _check_container(ray_cluster(document)["autoscalerOptions"], document["kind"])


def _check_container(container: Document, owner: str) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }, owner
    for amount in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][amount]), (owner, amount)


def test_the_name_space_refuses_pods_that_are_not_restricted(overlay: Manifests) -> None:
    assert overlay.one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", [*OVERLAYS, *TRAININGS])
def test_images_are_pinned(folder: str, build: Build) -> None:
    """An image without a tag is another one tomorrow; a name that kustomize did not replace is none at all."""
    for pod in build(folder).pods:
        for container in pod.containers:
            assert re.fullmatch(r"[^:@]+/[^:@/]+:(?!latest$)[\w.-]+(@sha256:[0-9a-f]{64})?", container["image"]), (
                pod.owner,
                container["image"],
            )


def test_a_layer_is_scaled_by_one_owner(overlay: Manifests) -> None:
    """Two autoscalers that pull at one number of replicas never come to rest."""
    assert not (overlay.of("RayService") and overlay.of("InferenceService"))
    assert not overlay.of("HorizontalPodAutoscaler")
    for service in overlay.of("InferenceService"):
        annotations, spec = service["metadata"]["annotations"], service["spec"]
        assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
        by_keda = "autoScaling" in spec["predictor"]
        assert annotations["serving.kserve.io/autoscalerClass"] == ("keda" if by_keda else "hpa")
        assert ("scaleMetric" in spec["predictor"]) != by_keda


def test_canaries_are_of_the_mode(overlay: Manifests) -> None:
    """In Standard mode KServe ignores canaryTrafficPercent, and refuses scaling fields in spec.canary."""
    scaling = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "scaleMetricType", "autoScaling"}
    for service in overlay.of("InferenceService"):
        assert "canaryTrafficPercent" not in service["spec"]["predictor"]
        canaries = service["spec"].get("canary", [])
        assert sum(one["trafficPercent"] for one in canaries) <= 100
        assert not [one for one in canaries if scaling & set(one["predictor"])]
        names = [one["predictor"]["name"] for one in canaries]
        assert len(set(names)) == len(names)
