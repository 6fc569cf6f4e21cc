"""Evaluation: measures of generated music, the gate that decides on them, and the report that people read."""
