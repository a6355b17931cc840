"""Reverse processes: time grids, solvers and the loop that runs them."""
