"""What is demanded of the catalogue and of the examples made from it, before anything is trained.

The only home of Great Expectations: expectations are data (`suites`), one function runs them over frames (`run`). A
failed one blocks the pipeline, quarantines the rows that it is about, or warns.
"""

from v2meow.data.checks.catalogue import validate
from v2meow.data.checks.features import check_features

__all__ = ["check_features", "validate"]
