"""What the Prefect server must know: deployments as prefect.yaml says, their schedules, limits, and automations.

All of it can be repeated; it then replaces what was there.
"""

from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Interval, Schedule
from pydantic import SecretStr

import v2meow
from v2meow.config import RetrainConfig, load_recipe

POOL = "v2meow"
GPU = "gpu"  # the limit that steps with `limit: gpu` hold
_WORKSPACE = "{{ $V2MEOW_WORKSPACE }}"
_GONE = "Not heard of: its process was killed."
_LOST_S = 540.0  # without a heartbeat, of which there is one every 180 s
_TOLD = """{{
  "run": {{{{ flow_run.name | tojson }}}},
  "state": {{{{ flow_run.state.name | tojson }}}},
  "message": {{{{ flow_run.state.message | tojson }}}},
  "link": "{page}/runs/flow-run/{{{{ flow_run.id }}}}"
}}"""
_ALIVE = ("Pending", "Running", "heartbeat")  # what a run that lives says; it is to say something again


def template() -> Path:
    """prefect.yaml: inside the package in a wheel, beside it in a checkout."""
    package = Path(v2meow.__file__).parent
    packed = package / "prefect.yaml"
    return packed if packed.is_file() else package.parent / "prefect.yaml"


def deploy(workspace: Path, *, gpus: int = 1, webhook: str = "", lost_s: float = _LOST_S) -> list[str]:
    """Make everything that the server needs for this workspace; the deployments' names.

    `webhook` is called with a line of JSON when a run fails or crashes, "" for nobody. Needs PREFECT_API_URL.
    """
    workspace = workspace.resolve()
    limits = load_recipe(workspace / "recipe.yaml").retrain
    with get_client(sync_client=True) as client:
        _make_pool(client)
        client.upsert_global_concurrency_limit_by_name(GPU, gpus)
    names = []
    for said in described(workspace):
        deployment = _deployment(said, limits)
        deployment.apply(work_pool_name=said["work_pool"]["name"])
        names.append(f"{deployment.flow_name}/{deployment.name}")
    _automate(_zombies(lost_s))
    if webhook:
        _automate(_notification(webhook))
    return names


def described(workspace: Path) -> list[dict[str, Any]]:
    """The deployments of prefect.yaml, for this workspace."""
    text = template().read_text().replace(_WORKSPACE, str(workspace))
    return yaml.safe_load(text)["deployments"]


def _make_pool(client: SyncPrefectClient) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _deployment(said: dict[str, Any], limits: RetrainConfig) -> RunnerDeployment:
    module, _, name = said["entrypoint"].rpartition(".")
    flow: Flow[..., Any] = getattr(import_module(module), name)
    deployment = flow.to_deployment(
        said["name"],
        parameters=said["parameters"],
        description=said["description"],
        concurrency_limit=ConcurrencyLimitConfig(**said["concurrency_limit"]),
        triggers=[DeploymentEventTrigger.model_validate(trigger) for trigger in said.get("triggers", ())],
        schedules=_schedules(flow.name, limits),
    )
    assert isinstance(deployment, RunnerDeployment)
    deployment.entrypoint = said["entrypoint"]
    return deployment


def _schedules(flow: str, limits: RetrainConfig) -> list[Schedule]:
    if flow == "retrain" and limits.cron:
        return [Cron(limits.cron)]
    if flow == "ingest" and limits.poll_minutes:
        return [Interval(timedelta(minutes=limits.poll_minutes))]
    return []


def _zombies(lost_s: float) -> AutomationCore:
    """A run that has not been heard of is marked crashed, so that its place is free: its process was killed."""
    return AutomationCore(
        name="v2meow: runs that vanished",
        trigger=EventTrigger(
            after={f"prefect.flow-run.{word}" for word in _ALIVE},
            expect={"prefect.flow-run.*"},  # states have names of their own: Nothing new
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=lost_s),
        ),
        actions=[ChangeFlowRunState(name=None, force=False, state=StateType.CRASHED, message=_GONE)],
    )


def _notification(webhook: str) -> AutomationCore:
    """Somebody is told of a run that failed: a step, the gate, a promotion."""
    from prefect.blocks.fields import SecretDict
    from prefect.blocks.webhook import Webhook
    from prefect.settings import PREFECT_UI_URL

    headers = SecretDict({"Content-Type": "application/json"})
    block = Webhook(method="POST", url=SecretStr(webhook), headers=headers, allow_private_urls=True)
    identity = block.save("v2meow-failures", overwrite=True)
    assert isinstance(identity, UUID)
    return AutomationCore(
        name="v2meow: runs that failed",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(seconds=0),
        ),
        actions=[
            CallWebhook(
                block_document_id=identity,
                payload=_TOLD.format(page=PREFECT_UI_URL.value()),  # the server need not know its own address
            )
        ],
    )


def _automate(automation: AutomationCore) -> None:
    with get_client(sync_client=True) as client:
        for old in client.request("POST", "/automations/filter").json():
            if old["name"] == automation.name:
                client.delete_automation(old["id"])
        client.create_automation(automation)
