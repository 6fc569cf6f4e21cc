"""Generation: from features of a video to a waveform. Knows neither data sets nor training."""
