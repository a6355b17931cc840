"""Public test tools: closed-form worlds, orders of convergence, contracts of parts."""
