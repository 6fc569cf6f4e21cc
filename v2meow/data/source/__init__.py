"""Where new videos come from: a folder, or a part of a bucket. A source lists objects and brings one of them.

Knows nothing of what was brought in before; that is the business of `pull`.
"""

from pathlib import Path

from v2meow.data.manifest import DataError
from v2meow.data.source.objects import ChangedError, Object, Source

__all__ = ["ChangedError", "Object", "Source", "open_source"]


def open_source(address: str) -> Source:
    """The source at a folder's path or s3://bucket/prefix. DataError for anything else, and without boto3."""
    if address.startswith("s3://"):
        try:
            from v2meow.data.source.s3 import Bucket
        except ModuleNotFoundError as error:
            raise DataError("boto3 is not installed: a bucket needs v2meow's extra `s3`, v2meow[s3]") from error
        return Bucket(address)
    if not address or "://" in address:
        raise DataError(
            f"{address!r} is no source: give a folder or s3://bucket/prefix, or set data.source in the recipe"
        )
    from v2meow.data.source.folder import Folder

    return Folder(Path(address))
