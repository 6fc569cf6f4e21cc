"""The step `extract`: every clip becomes one row of features and ids, in Parquet files of many clips each.

Run in this process, or by Ray Data on many machines that see the same workspace: the bytes are the same.
"""

from v2meow.data.extract.step import run

__all__ = ["run"]
