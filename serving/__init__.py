"""Generation as a service: one process a part of the cascade, under Ray Serve or KServe. Thin over v2meow.generate."""
