"""Training: the stages of the cascade, and the extractors that a recipe fits itself."""
