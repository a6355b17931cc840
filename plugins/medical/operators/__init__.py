"""The physics of measurements: line integrals, k-space, coils, photons."""
