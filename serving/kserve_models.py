"""The steps of the cascade as models of a KServe server."""

import asyncio
import logging
from typing import Any

from kserve import InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from serving.admission import Gate
from serving.kserve_wire import Refused, arrays, parameters, response
from serving.problems import Problem, problem_of
from serving.steps import Steps
from serving.tensors import StepName

log = logging.getLogger("v2meow.serving")
_NAME = "v2meow"


def model_name(step: StepName) -> str:
    """What a step's model is called: v2meow for the whole, v2meow-coarse."""
    return _NAME if step == "cascade" else f"{_NAME}-{step}"


class StepModel(Model):
    """One step. Not ready until somebody who has tried it says so."""

    def __init__(self, step: StepName, steps: Steps, gate: Gate) -> None:
        super().__init__(model_name(step))
        self._step: StepName = step
        self._steps, self._gate = steps, gate
        self._contract = steps.contracts[step]

    def load(self) -> bool:
        """KServe asks for it when a request comes too early: it changes nothing."""
        return self.ready

    async def healthy(self) -> bool:
        return self.ready and self._steps.parts.alive

    def get_input_types(self) -> list[dict[str, Any]]:
        return [spec.metadata for spec in self._contract.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [spec.metadata for spec in self._contract.outputs]

    async def predict(  # type: ignore[override]
        self,
        payload: InferRequest | dict[str, Any],
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """Refused, whatever is wrong."""
        if not isinstance(payload, InferRequest):
            raise InvalidInput(f"{self.name} speaks the V2 protocol: POST to /v2/models/{self.name}/infer")
        try:
            if not await self.healthy():
                raise Problem(503, "not-ready", f"Model with name {self.name} is not ready.", retry_after=5.0)
            return await self._answer(payload)
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                log.exception("%s failed", self.name)
            raise Refused(problem) from error

    async def _answer(self, payload: InferRequest) -> InferResponse:
        given = arrays(payload)
        self._contract.check(given)
        takes, patience = self._steps.takes(given), self._steps.limits.deadline_s
        async with asyncio.timeout(patience), self._gate.place(takes, patience):
            answer = await self._steps.run(self._step, given, parameters(payload))
        return response(payload, self.name, answer)
