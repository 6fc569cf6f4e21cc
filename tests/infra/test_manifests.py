"""Every document is what its kind allows, to the last field; and a misspelt one is not."""

import copy
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from manifests import OVERLAYS, TRAININGS, Document, Manifests, strict

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_RULE = {
    "type": "object",
    "properties": {
        "alert": {"type": "string", "pattern": "^[A-Za-z0-9]+$"},
        "expr": {"type": "string"},
        "for": {"type": "string", "pattern": "^[0-9]+[smh]$"},
        "labels": {"type": "object", "properties": {"severity": {"enum": ["warning", "critical"]}}},
        "annotations": {
            "type": "object",
            "properties": {"summary": {"type": "string"}, "description": {"type": "string"}},
            "required": ["summary", "description"],
        },
    },
    "required": ["alert", "expr", "for", "labels", "annotations"],
}
_GROUP = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "rules": {"type": "array", "items": _RULE}},
    "required": ["name", "rules"],
}
_SELECTOR = {
    "type": "object",
    "properties": {
        "matchLabels": _TEXTS,
        "matchExpressions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "key": {"type": "string"},
                    "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    "values": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}
_ENDPOINT = {
    "type": "object",
    "properties": {
        "port": {"type": "string"},
        "path": {"type": "string"},
        "interval": {"type": "string"},
        "relabelings": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "sourceLabels": {"type": "array", "items": {"type": "string"}},
                    "targetLabel": {"type": "string"},
                },
            },
        },
    },
    "required": ["port"],
}
_MONITORING = {  # what we use of the Prometheus Operator's kinds, by its API reference; there is no schema at hand
    "PrometheusRule": {"groups": {"type": "array", "items": _GROUP}},
    "PodMonitor": {"selector": _SELECTOR, "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT}},
}
_METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "required": ["name"],
    "additionalProperties": False,
}
CRDs = dict[tuple[str, str], dict[str, Any]]


def _faults(document: Document, crds: CRDs) -> list[str]:
    """What is wrong with a document, by the schema of its kind."""
    version, kind = document["apiVersion"], document["kind"]
    if version.startswith("monitoring.coreos.com/"):
        spec = strict({"type": "object", "properties": _MONITORING[kind], "required": [*_MONITORING[kind]]})
        schema = {
            "type": "object",
            "properties": {"apiVersion": {}, "kind": {}, "metadata": _METADATA, "spec": spec},
            "additionalProperties": False,
        }
    elif (version, kind) in crds:
        known = crds[version, kind]
        properties = known["properties"] | {"metadata": _METADATA}
        schema = known | {"required": ["apiVersion", "kind", "metadata", "spec"], "properties": properties}
    else:
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            return [error.message]
        return []
    return [f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("folder", [*OVERLAYS, *TRAININGS])
def test_every_document_is_valid(folder: str, build: Callable[[str], Manifests], crds: CRDs) -> None:
    """A field that the API server would drop or refuse is found here, and not in a cluster."""
    wrong = {
        f"{one['kind']} {one['metadata']['name']}": faults
        for one in build(folder).documents
        if (faults := _faults(one, crds))
    }
    assert not wrong


_SLIPS = [  # kind, the way to where a key is misspelt or a value is made wrong
    ("overlays/prod", "RayService", ["spec", "rayClusterConfig", "workerGroupSpecs", 0], "minReplica", 1),
    ("overlays/prod", "RayService", ["spec", "upgradeStrategy"], "typ", "NewCluster"),
    (
        "overlays/prod",
        "RayService",
        ["spec", "rayClusterConfig", "headGroupSpec", "template", "spec"],
        "serviceAcountName",
        "x",
    ),
    ("training/fine", "RayJob", ["spec"], "ttlSecondsAfterFinish", 1),
    ("training/development", "RayCluster", ["spec", "authOptions"], "mode", "tokens"),
    ("overlays/prod-kserve", "InferenceService", ["spec", "canary", 0], "trafficPercent", 140),
    ("overlays/prod-kserve", "InferenceService", ["spec", "predictor"], "maxReplica", 2),
    ("overlays/prod-kserve-steps", "InferenceGraph", ["spec", "nodes", "root", "steps", 0], "servicename", "x"),
    ("overlays/prod", "Deployment", ["spec", "template", "spec", "containers", 0], "imag", "x"),
    ("overlays/prod", "NetworkPolicy", ["spec"], "podSelectors", {}),
    ("overlays/prod", "PodDisruptionBudget", ["spec"], "minAvailble", 1),
    ("overlays/prod", "PrometheusRule", ["spec", "groups", 0, "rules", 0], "expression", "1"),
    ("overlays/prod", "PodMonitor", ["spec", "podMetricsEndpoints", 0], "ports", "x"),
    ("overlays/prod", "PodMonitor", ["metadata"], "label", {}),
]


@pytest.mark.parametrize(("folder", "kind", "way", "key", "value"), _SLIPS)
def test_a_slip_is_found(
    folder: str,
    kind: str,
    way: list[str | int],
    key: str,
    value: Any,
    build: Callable[[str], Manifests],
    crds: CRDs,
) -> None:
    """The validation above would say nothing at all if its schemas allowed everything."""
    document = copy.deepcopy(build(folder).of(kind)[0])
    assert not _faults(document, crds)
    place: Any = document
    for step in way:
        place = place[step]
    place[key] = value
    assert _faults(document, crds)


def test_all_kinds_are_known(build: Callable[[str], Manifests], crds: CRDs) -> None:
    """KServe's and KubeRay's kinds are held against their schemas, and never taken for core kinds."""
    kinds = {(one["apiVersion"], one["kind"]) for folder in OVERLAYS for one in build(folder).documents}
    theirs = {kind for kind in kinds if kind[0].startswith(("ray.io/", "serving.kserve.io/"))}
    assert len(theirs) == 3
    assert theirs <= set(crds)
