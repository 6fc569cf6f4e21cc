"""Versions of models and the stages they hold: an append-only log of events, one folder a model.

    ROOT/MODEL/log/00000042.json     one event, created whole and never again, chained to the one before
    ROOT/MODEL/bundles/HASH/         the bundle that events name by its hash

`store` creates the files, `log` reads and writes events and folds them into a state, `registry`
holds the rules of who may be promoted. There is no server and no other state.
"""

from v2meow.registry.log import Event, ModelState, RegistryError, Version
from v2meow.registry.registry import DEPLOYMENT_STAGES, PRODUCTION, STAGING, UNSET, ConflictError, Registry

__all__ = [
    "DEPLOYMENT_STAGES",
    "PRODUCTION",
    "STAGING",
    "UNSET",
    "ConflictError",
    "Event",
    "ModelState",
    "Registry",
    "RegistryError",
    "Version",
]
