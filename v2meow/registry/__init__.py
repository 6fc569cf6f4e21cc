"""Versions of models and the stages they hold: an append-only log of events, one folder a model, local or in S3.

    ROOT/MODEL/log/00000042.json     one event, created whole and never again, chained to the one before
    ROOT/MODEL/bundles/HASH          the bundle that events name by its hash

`store` and `s3` keep files, `log` reads and writes events, `state` folds them, `rules` says who may hold what, and
`registry` is what callers use. There is no server and no other state.
"""

from v2meow.registry.pointer import REGISTRY_VARIABLE, Pointer, fetch, read_pointer
from v2meow.registry.registry import UNSET, Registry
from v2meow.registry.requests import ConflictError
from v2meow.registry.rules import DEPLOYMENT_STAGES, PRODUCTION, SMOKE, STAGING
from v2meow.registry.state import Event, ModelState, RegistryError, Report, Version
from v2meow.registry.store import StoreError

__all__ = [
    "DEPLOYMENT_STAGES",
    "PRODUCTION",
    "REGISTRY_VARIABLE",
    "SMOKE",
    "STAGING",
    "UNSET",
    "ConflictError",
    "Event",
    "ModelState",
    "Pointer",
    "Registry",
    "RegistryError",
    "Report",
    "StoreError",
    "Version",
    "fetch",
    "read_pointer",
]
