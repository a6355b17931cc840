"""One HTML page about finished steps."""
