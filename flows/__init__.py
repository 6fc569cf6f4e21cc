"""Prefect's part: when the pipeline runs, with what retries and limits, and how a model gets to production.

What a step does, what a file holds and what a rule of the registry is, is known below. The only home of Prefect.
"""
