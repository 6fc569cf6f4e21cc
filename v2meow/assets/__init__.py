"""Pretrained weights: which there are, fetching them, and a verified local folder of each.

`folder(name)` is all that an encoder needs. The store is $V2MEOW_ASSETS, else ~/.cache/v2meow/assets.
"""

from v2meow.assets.catalogue import DECLARATIONS, Asset, AssetError, AssetFile, catalogue
from v2meow.assets.fetch import Pulled, pull, wanted
from v2meow.assets.sources import MIRROR_VARIABLE, UnreachableError
from v2meow.assets.store import FOLDER_VARIABLE, Condition, Verified, conditions, find, recorded, root, stored
from v2meow.assets.use import check_commercial, check_licences, fingerprint, folder, needed

__all__ = [
    "DECLARATIONS",
    "FOLDER_VARIABLE",
    "MIRROR_VARIABLE",
    "Asset",
    "AssetError",
    "AssetFile",
    "Condition",
    "Pulled",
    "UnreachableError",
    "Verified",
    "catalogue",
    "check_commercial",
    "check_licences",
    "conditions",
    "find",
    "fingerprint",
    "folder",
    "needed",
    "pull",
    "recorded",
    "root",
    "stored",
    "wanted",
]
