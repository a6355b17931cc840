"""Forward processes: how a clean sample becomes noise, and the noise itself."""
