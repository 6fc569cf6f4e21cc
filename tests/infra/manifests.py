"""Reading manifests: pods wherever a kind keeps them, and what they refer to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = dict[str, Any]
INFRA = Path(__file__).parents[2] / "infra"
OVERLAYS = ("overlays/dev", "overlays/prod", "overlays/prod-kserve", "overlays/prod-kserve-steps")
TRAININGS = ("training/semantic", "training/coarse", "training/fine", "training/development")
_RAY_SPECS = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}


@dataclass(frozen=True)
class Pod:
    """A pod that a document asks for: its labels and its spec. `owner` is the kind and name of the document."""

    owner: str
    labels: dict[str, str]
    spec: Document

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def mounted(self, path: str) -> Document:
        """The volume that holds an absolute path, the longest mount first."""
        mounts = [mount for one in self.spec["containers"] for mount in one.get("volumeMounts", [])]
        name = max((m for m in mounts if inside(path, m["mountPath"])), key=lambda m: len(m["mountPath"]))["name"]
        return next(volume for volume in self.spec["volumes"] if volume["name"] == name)


@dataclass(frozen=True)
class Manifests:
    """All documents of one build."""

    folder: str
    documents: list[Document]

    def of(self, kind: str) -> list[Document]:
        return [one for one in self.documents if one["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Document:
        (found,) = [one for one in self.of(kind) if name in (None, one["metadata"]["name"])]
        return found

    @property
    def pods(self) -> list[Pod]:
        return [pod for one in self.documents for pod in pods_of(one)]


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def ray_cluster(document: Document) -> Document:
    """The spec of the Ray cluster in a RayService, RayJob or RayCluster."""
    spec = document["spec"]
    return spec[_RAY_SPECS[document["kind"]]] if document["kind"] in _RAY_SPECS else spec


def pods_of(document: Document) -> Iterator[Pod]:
    kind, spec = document["kind"], document.get("spec", {})
    owner = f"{kind} {document['metadata']['name']}"
    if kind == "Deployment":
        yield Pod(owner, spec["template"]["metadata"]["labels"], spec["template"]["spec"])
    elif kind in ("RayService", "RayJob", "RayCluster"):
        cluster = ray_cluster(document)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield Pod(owner, group["template"]["metadata"]["labels"], group["template"]["spec"])
    elif kind == "InferenceService":
        for predictor in (spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", []))):
            yield Pod(owner, predictor["labels"], predictor)


def router_labels(document: Document) -> dict[str, str]:
    """Those that KServe gives to the pods of an InferenceGraph's router, which no manifest shows."""
    return {"serving.kserve.io/inferencegraph": document["metadata"]["name"]}


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod of these labels."""
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(
        {"In": labels.get(one["key"]) in one.get("values", []), "Exists": one["key"] in labels}[one["operator"]]
        for one in selector.get("matchExpressions", [])
    )


def strict(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as JSON schema that knows all fields: another one is an error."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made
