"""Frozen extractors: what turns pictures, sound and words into features and ids, and ids into sound."""
