"""Ray: a private one of this machine, a running one that is joined, a job sent to one."""
