"""Public test tools: closed-form distributions, orders of convergence, contracts of parts."""
