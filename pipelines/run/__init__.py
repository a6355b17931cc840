"""Steps done: in this process, as tasks of Ray, by several processes."""
