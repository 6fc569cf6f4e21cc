"""The model: one token language model for three stages. No optimizer, disk, cluster or sampling."""
