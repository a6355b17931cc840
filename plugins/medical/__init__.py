"""Medical images: attenuation and magnetisation from sparse measurements.

Not a medical device: nothing here is for diagnosis or treatment.
"""

from core.parts.registry import Plugin, Verb, dataset, operator, task

PLUGIN = Plugin(
    name="medical",
    summary="CT and MRI measurements and phantoms. Not a medical device.",
    extra="polymode[medical]",
    commands="plugins.medical.__main__:app",
    parts=(
        dataset(
            "dicom_folder",
            "plugins.medical.data:DicomFolder",
            "Slices of your own DICOM series, by patient",
            needs=("pydicom",),
        ),
        dataset(
            "fastmri",
            "plugins.medical.data:FastMri",
            "fastMRI's fully measured volumes, by patient",
            needs=("h5py",),
        ),
        dataset(
            "lidc",
            "plugins.medical.data:Lidc",
            "LIDC-IDRI's chest CT from its folders, by patient",
            needs=("pydicom",),
        ),
        dataset(
            "lodopab",
            "plugins.medical.data:Lodopab",
            "LoDoPaB-CT's slices from its HDF5 files",
            needs=("h5py",),
        ),
        dataset(
            "samples",
            "plugins.medical.data:Samples",
            "Scans inside pydicom and nibabel; no download",
            needs=("pydicom", "nibabel"),
        ),
        dataset(
            "nifti_folder",
            "plugins.medical.data:NiftiFolder",
            "Slices of your own NIfTI volumes, by patient",
            needs=("nibabel",),
        ),
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
        task(
            "ct",
            "plugins.medical.tasks:Ct",
            "CT from few views, by an image prior",
            needs=("scipy",),
        ),
        task(
            "mri",
            "plugins.medical.tasks:Mri",
            "MRI from sparse k-space, by an image prior",
            needs=("pywt", "scipy"),
        ),
    ),
    verbs=(
        Verb(
            name="memorisation",
            request="plugins.medical.request:MemorisationRequest",
            result="plugins.medical.request:MemorisationResult",
            target="plugins.medical.memorisation:evaluate",
            summary="The training slices nearest to draws",
        ),
        Verb(
            name="reconstruct",
            request="plugins.medical.request:ReconstructRequest",
            result="core.request:SampleResult",
            target="plugins.medical.simulated:sample",
            summary="Held-out slices from simulated measurements",
        ),
        Verb(
            name="samplers",
            request="plugins.medical.request:SamplersRequest",
            result="plugins.medical.request:SamplersResult",
            target="plugins.medical.samplers:compare",
            summary="Posterior samplers with one prior, in one table",
        ),
    ),
)
