"""Tasks that networks are trained for by `polymode train`."""
