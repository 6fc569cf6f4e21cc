"""The listening study: people compare the music of several systems for the same videos, blind and in pairs."""
