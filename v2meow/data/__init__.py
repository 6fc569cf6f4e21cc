"""From videos to checked examples that models are trained on."""
