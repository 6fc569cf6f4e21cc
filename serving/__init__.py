"""Generation as a service: one process a part of the cascade, under Ray Serve or KServe. Thin over v2meow.generate."""

import v2meow  # noqa: F401  # it says what Ray has to know when it is imported here
