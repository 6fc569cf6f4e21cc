"""V2Meow: music for silent video, by a cascade of three token language models."""
