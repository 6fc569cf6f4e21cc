"""Whether the server lives and is ready, and which models it has: what KServe leaves open."""

from kserve import ModelRepository
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from serving.local import LocalParts


class Plane(DataPlane):
    """KServe's, whose server is ready with its models, and lives while its engines do."""

    def __init__(self, models: ModelRepository, parts: LocalParts) -> None:
        super().__init__(models)
        self._models, self._parts = models, parts

    async def live(self) -> dict[str, str]:  # type: ignore[override]
        """Not alive when an engine has stopped: Kubernetes then starts the container again."""
        return {"status": "alive" if self._parts.alive else "dead"}

    async def ready(self) -> bool:
        """Whether all models have been tried, and work."""
        names = self._models.get_models()
        return bool(names) and all([await self._models.is_model_ready(name) for name in names])


class FixedModels(ModelRepositoryExtension):
    """KServe lets whoever reaches the server unload its models; here nobody may."""

    async def load(self, model_name: str) -> None:
        raise InvalidInput(f"{model_name}: the models of this server are those that it was started with")

    async def unload(self, model_name: str) -> None:
        await self.load(model_name)
