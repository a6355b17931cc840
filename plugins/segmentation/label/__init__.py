"""The labelling page: a local server, masks that are painted, and the live prediction."""
