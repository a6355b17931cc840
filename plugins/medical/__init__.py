"""Medical images: attenuation and magnetisation from sparse measurements.

Not a medical device: nothing here is for diagnosis or treatment.
"""

from core.registry import Plugin, dataset, operator

PLUGIN = Plugin(
    name="medical",
    summary="CT and MRI measurements and phantoms. Not a medical device.",
    extra="polymode[medical]",
    parts=(
        dataset(
            "phantoms", "plugins.medical.data:Phantoms", "Heads of random ellipses; no download"
        ),
        operator(
            "fan_beam",
            "plugins.medical.operators:FanBeam",
            "Line integrals from a point source",
            needs=("scipy",),
        ),
        operator(
            "fourier", "plugins.medical.kspace:Fourier", "Masked k-space, one or several coils"
        ),
        operator(
            "radon",
            "plugins.medical.operators:Radon",
            "Line integrals along parallel beams",
            needs=("scipy",),
        ),
    ),
)
