"""Manifests name what the code has: settings, deployments, commands, paths, ports, the version of Ray."""

import ast
import copy
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from commands import parses
from manifests import INFRA, OVERLAYS, Document, Manifests, Pod, inside, pods_of, ray_cluster
from ray.serve.schema import ServeDeploySchema
from typer.main import get_command

from serving import kserve_server
from serving.settings import PartName, PartScaling, Settings
from v2meow.config import STAGES

Build = Callable[[str], Manifests]
_ROOT = INFRA.parent
_WITH_RAY = ("overlays/dev", "overlays/prod")
_PART_NAMES: tuple[PartName, ...] = ("ingress", "visual", "text", "semantic", "coarse", "fine", "codec")


def _application(overlay: Manifests) -> tuple[ServeDeploySchema, Document, Settings]:
    config = yaml.safe_load(overlay.one("RayService")["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    return schema, application, Settings.model_validate(application["args"])


@pytest.mark.parametrize("folder", _WITH_RAY)
def test_the_serve_config_is_one(folder: str, build: Build) -> None:
    """Ray's own schema takes it, and Settings its args: KubeRay would show a misspelt one only in a status."""
    schema, application, _ = _application(build(folder))
    assert schema.http_options.host == "0.0.0.0"
    assert schema.http_options.port == 8000
    assert schema.http_options.request_timeout_s is None  # it would cut streams that are well
    assert application["route_prefix"] == "/"
    module, _, builder = application["import_path"].partition(":")
    tree = ast.parse((_ROOT / f"{module.replace('.', '/')}.py").read_text())
    (function,) = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == builder]
    assert ast.unparse(function.args.args[0].annotation or ast.Constant(None)) == "Settings"


def test_the_canary_is_set_where_a_change_reaches_running_processes(build: Build) -> None:
    """In `args` a changed share would replace every process; Ingress takes what its user_config says."""
    overlay = build("overlays/prod")
    schema, _, settings = _application(overlay)
    (override,) = schema.applications[0].deployments
    assert override.name in _deployments()
    models = Settings.model_validate({"open": True} | dict(override.user_config or {})).models
    assert [model.name for model in models] == ["v2meow@production", "v2meow@staging"]
    assert models[0].share > models[1].share > 0
    assert settings.models[0].name == models[0].name


def _deployments() -> set[str]:
    """Names of the deployments that the application has."""
    tree = ast.parse((_ROOT / "serving" / "deployments.py").read_text())
    decorators = [one for node in tree.body if isinstance(node, ast.ClassDef) for one in node.decorator_list]
    return {
        ast.literal_eval(word.value)
        for call in decorators
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "serve.deployment"
        for word in call.keywords
        if word.arg == "name"
    }


@pytest.mark.parametrize("wrong", [{"keyz": "/etc/v2meow/keys.json"}, {"parts": {"coarser": {}}}, {"open": False}])
def test_misspelt_settings_are_found(wrong: dict[str, Any], build: Build) -> None:
    _, application, _ = _application(build("overlays/dev"))
    with pytest.raises(ValueError, match="validation error"):
        Settings.model_validate(application["args"] | wrong)


def test_only_what_is_closed_off_is_open(build: Build) -> None:
    """Without keys anybody who reaches the port has it all; production has keys, and a file of them."""
    _, _, dev = _application(build("overlays/dev"))
    _, _, prod = _application(build("overlays/prod"))
    assert dev.open
    assert not prod.open
    assert prod.keys


@pytest.mark.parametrize("folder", _WITH_RAY)
def test_paths_of_the_settings_are_mounted(folder: str, build: Build) -> None:
    """Keys come from the Secret, workspace and spool lie on the volume that all workers share."""
    overlay = build(folder)
    _, _, settings = _application(overlay)
    workers = [pod for pod in overlay.pods if pod.owner.startswith("RayService") and "worker" in _role(pod)]
    assert workers
    for pod in workers:
        for path in filter(None, (settings.workspace, settings.spool)):
            assert pod.mounted(path)["persistentVolumeClaim"]["claimName"] == "v2meow-workspace"
        if settings.keys:
            secret = pod.mounted(settings.keys)["secret"]["secretName"]
            assert Path(settings.keys).name in overlay.one("Secret", secret)["data"]
        assert pod.spec["terminationGracePeriodSeconds"] > settings.drain_s


def _role(pod: Pod) -> str:
    return pod.labels["v2meow.io/role"]


@pytest.mark.parametrize("folder", _WITH_RAY)
def test_parts_find_room(folder: str, build: Build) -> None:
    """The fewest processes fit the fewest pods, and the most the most: else Serve waits for pods that never come."""
    overlay = build(folder)
    _, _, settings = _application(overlay)
    groups = ray_cluster(overlay.one("RayService"))["workerGroupSpecs"]
    parts = [settings.part(name) for name in _PART_NAMES]
    for bound in ("minReplicas", "maxReplicas"):
        for resource, amount in (("cpu", "cpus"), ("nvidia.com/gpu", "gpus")):
            room = sum(group[bound] * _limit(group, resource) for group in groups)
            needed = sum(_replicas(part, bound) * getattr(part, amount) for part in parts)
            assert needed <= room, (bound, resource)
    assert max(part.gpus for part in parts) <= 1


def _limit(group: Document, resource: str) -> float:
    return float(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(resource, 0))


def _replicas(part: PartScaling, bound: str) -> int:
    return part.min_replicas if bound == "minReplicas" else part.max_replicas


@pytest.mark.parametrize("folder", _WITH_RAY)
def test_the_head_does_no_work(folder: str, build: Build) -> None:
    """A replica on the head would take the cluster's memory, and go down with nothing to replace the head."""
    service = build(folder).one("RayService")
    start = ray_cluster(service)["headGroupSpec"]["rayStartParams"]
    assert start["num-cpus"] == "0"
    assert service["spec"]["excludeHeadPodFromServeSvc"]


@pytest.mark.parametrize("folder", ["overlays/dev", "training/semantic", "training/development"])
def test_ray_is_the_one_of_the_lock_file(folder: str, build: Build) -> None:
    """KubeRay acts by rayVersion; the image has what uv.lock says."""
    locked = tomllib.loads((_ROOT / "uv.lock").read_text())["package"]
    (version,) = [one["version"] for one in locked if one["name"] == "ray"]
    for document in build(folder).documents:
        if document["kind"] in ("RayService", "RayJob", "RayCluster"):
            assert ray_cluster(document)["rayVersion"] == version


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_runs_its_own_stage(stage: str, build: Build) -> None:
    job = build(f"training/{stage}").one("RayJob", f"train-{stage}")
    command = shlex.split(job["spec"]["entrypoint"])
    parses(command)
    assert command == ["v2meow", "train", stage, "--workspace", "/workspace"]
    for pod in pods_of(job):
        assert pod.mounted("/workspace")["persistentVolumeClaim"]["claimName"] == "v2meow-workspace"


@pytest.mark.parametrize("command", ["v2meow train coars", "v2meow train fine --workspaces /w", "v2meow keys made x"])
def test_a_misspelt_command_is_found(command: str) -> None:
    with pytest.raises(Exception, match=r"No such|not one of"):
        parses(shlex.split(command))


def _kserve_options(command: list[str]) -> dict[str, Any]:
    """What `python -m serving.kserve_server` makes of its arguments. A usage error for one that it does not have."""
    assert command[:3] == ["python", "-m", "serving.kserve_server"]
    app = typer.Typer()
    app.command()(kserve_server.serve)
    return get_command(app).make_context("kserve_server", command[3:]).params


def _predictors(overlay: Manifests) -> list[tuple[str, Document]]:
    return [
        (service["metadata"]["name"], predictor)
        for service in overlay.of("InferenceService")
        for predictor in (
            service["spec"]["predictor"],
            *(one["predictor"] for one in service["spec"].get("canary", [])),
        )
    ]


@pytest.mark.parametrize("folder", [one for one in OVERLAYS if "kserve" in one])
def test_predictors_are_started_as_the_server_wants_it(folder: str, build: Build) -> None:
    """KServe calls a model as its InferenceService, by V2: the part must be the one of that name."""
    overlay = build(folder)
    assert _predictors(overlay)
    for service, predictor in _predictors(overlay):
        (container,) = predictor["containers"]
        options = _kserve_options([*container["command"], *container["args"]])
        part = options["part"]
        assert service == ("v2meow" if part == "cascade" else f"v2meow-{part}")
        assert options["model"].startswith("v2meow@")
        assert inside(str(options["workspace"]), "/workspace")
        assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
        ports = {port["containerPort"] for port in container["ports"]}
        assert ports == {options["http_port"], options["grpc_port"]}
        assert container["ports"][0]["containerPort"] == options["http_port"]  # the one that KServe's Service leads to
        assert predictor["timeout"] > options["upload_seconds"] + options["deadline"]
        assert options["threads"] <= float(container["resources"]["limits"]["cpu"])


@pytest.mark.parametrize(("folder", "name"), [("prod-kserve", "v2meow"), ("prod-kserve-steps", "v2meow-codec")])
def test_the_patch_that_has_music_marked_fits(folder: str, name: str, build: Build) -> None:
    """README's, which no overlay has: its lists are there to be added to, the secret lies where the server looks."""
    (patch,) = [text for text in (INFRA / "README.md").read_text().split("```yaml\n") if "--watermark=" in text]
    spec = copy.deepcopy(build(f"overlays/{folder}").one("InferenceService", name)["spec"])
    for step in yaml.safe_load(patch.partition("```")[0]):
        *way, last = step["path"].removeprefix("/spec/").split("/")
        assert (step["op"], last) == ("add", "-")
        there = spec
        for key in way:
            there = there[int(key) if key.isdigit() else key]
        there.append(step["value"])
    predictor = spec["predictor"]
    (container,) = predictor["containers"]
    secret = _kserve_options([*container["command"], *container["args"]])["watermark"]
    (mount,) = [one for one in container["volumeMounts"] if inside(str(secret), one["mountPath"])]
    (volume,) = [one for one in predictor["volumes"] if one["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "v2meow-mark"


def test_the_graph_chains_the_steps_in_their_order(build: Build) -> None:
    overlay = build("overlays/prod-kserve-steps")
    steps = overlay.one("InferenceGraph")["spec"]["nodes"]["root"]
    services = [one["metadata"]["name"] for one in overlay.of("InferenceService")]
    named = [step["serviceName"] for step in steps["steps"]]
    assert steps["routerType"] == "Sequence"
    assert named == [f"v2meow-{step}" for step in ("visual", *STAGES, "codec")]
    assert sorted(named) == sorted(services)
    assert [step.get("data") for step in steps["steps"]] == [None, *["$response"] * (len(named) - 1)]


def test_probes_ask_what_is_answered(build: Build) -> None:
    """Ports of probes are ports of their container."""
    for folder in OVERLAYS:
        for pod in build(folder).pods:
            for container in pod.containers:
                ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    if probe in container:
                        port = container[probe]["httpGet"]["port"]
                        assert port in ports or port in ports.values(), (pod.owner, probe)
