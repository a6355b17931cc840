"""How long each waits when a run is stopped: each longer than what it waits for.

Seconds.  A trial of a search saves first, then the step that holds it, then the driver on the
cluster, which Ray would end after three.
"""

TRIALS = 15.0  # that trials of a search have to write their checkpoints
STEPS = TRIALS + 5.0  # that steps have to save what they did when the run is stopped
CLUSTER = STEPS + 25.0  # that steps on other machines have: they read of it in a file
JOB = CLUSTER + 15.0  # that a submitted job has until it is ended
STOPPED = JOB + 30.0  # until nobody waits for a submitted job to end any more

RAY_STARTS = (30.0, 120.0)  # that a private Ray has to start, at each attempt; 30 is Ray's own

FOREVER = 7 * 24 * 3600  # workers wait for cores that other steps occupy; whether there are any
# at all is checked before anything starts
