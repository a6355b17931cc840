"""CT and MRI from sparse measurements: scans in and out, priors, draws with their uncertainty.

Not a medical device: nothing here is for diagnosis or treatment.
"""

from core.parts.registry import (
    Plugin,
    Verb,
    dataset,
    guidance,
    objective,
    operator,
    predictor,
    task,
)

PLUGIN = Plugin(
    name="medical",
    summary="CT and MRI from few measurements, by a prior of images. Not a medical device.",
    extra="polymode[medical]",
    commands="plugins.medical.__main__:app",
    parts=(
        dataset(
            "dicom_folder",
            "plugins.medical.data.folders:DicomFolder",
            "Slices of your own DICOM series, by patient",
            needs=("pydicom",),
            version="2",
        ),
        dataset(
            "fastmri",
            "plugins.medical.data.folders:FastMri",
            "fastMRI's fully measured volumes, by patient",
            needs=("h5py",),
        ),
        dataset(
            "kspace_folder",
            "plugins.medical.data.kspace:KSpaceFolder",
            "Undersampled k-space of your own files, by patient",
            needs=("h5py",),
        ),
        dataset(
            "lidc",
            "plugins.medical.data.folders:Lidc",
            "LIDC-IDRI's chest CT from its folders, by patient",
            needs=("pydicom",),
            version="2",
        ),
        dataset(
            "lodopab",
            "plugins.medical.data.lodopab:Lodopab",
            "LoDoPaB-CT's slices from its HDF5 files",
            needs=("h5py",),
        ),
        dataset(
            "samples",
            "plugins.medical.data.folders:Samples",
            "Scans inside pydicom and nibabel; no download",
            needs=("pydicom", "nibabel"),
        ),
        dataset(
            "nifti_folder",
            "plugins.medical.data.folders:NiftiFolder",
            "Slices of your own NIfTI volumes, by patient",
            needs=("nibabel",),
            version="2",
        ),
        dataset(
            "scan_folder",
            "plugins.medical.data.folders:ScanFolder",
            "Slices of your own DICOM and NIfTI scans, by patient",
            needs=("pydicom", "nibabel"),
        ),
        dataset(
            "undersampled_scans",
            "plugins.medical.data.kspace:UndersampledScans",
            "Your MR scans, each slice undersampled once",
            needs=("pydicom", "nibabel"),
        ),
        dataset(
            "phantoms",
            "plugins.medical.data.phantoms:Phantoms",
            "Heads of random ellipses; no download",
        ),
        guidance(
            "subsets",
            "plugins.medical.tasks.subsets:subsets",
            "Whole images by a prior of undersampled ones",
        ),
        objective(
            "measured",
            "plugins.medical.tasks.measured:Measured",
            "Denoising loss on measured frequencies alone",
        ),
        operator(
            "fan_beam",
            "plugins.medical.operators.radon:FanBeam",
            "Line integrals from a point source",
            needs=("scipy",),
        ),
        operator(
            "fourier",
            "plugins.medical.operators.fourier:Fourier",
            "Masked k-space, one or several coils",
        ),
        operator(
            "radon",
            "plugins.medical.operators.radon:Radon",
            "Line integrals along parallel beams",
            needs=("scipy",),
        ),
        predictor(
            "reconstruct_ct",
            "plugins.medical.inference.predictors:ReconstructCt",
            "Sparse-view CT of a scan or a sinogram",
            needs=("scipy", "kornia", "nibabel", "pydicom"),
        ),
        predictor(
            "reconstruct_mri",
            "plugins.medical.inference.predictors:ReconstructMri",
            "Accelerated MRI of a scan or k-space",
            needs=("pywt", "scipy", "kornia", "nibabel", "pydicom"),
        ),
        task(
            "ct",
            "plugins.medical.tasks.ct:Ct",
            "CT from few views, by an image prior",
            needs=("scipy", "kornia"),
        ),
        task(
            "mri",
            "plugins.medical.tasks.mri:Mri",
            "MRI from sparse k-space, by an image prior",
            needs=("pywt", "scipy", "kornia"),
        ),
        task(
            "undersampled_mri",
            "plugins.medical.tasks.undersampled:UndersampledMri",
            "A prior of k-space that was never fully measured",
        ),
    ),
    verbs=(
        Verb(
            name="memorisation",
            request="plugins.medical.request:MemorisationRequest",
            result="plugins.medical.request:MemorisationResult",
            target="plugins.medical.evaluation.memorisation:evaluate",
            summary="The training slices nearest to draws",
        ),
        Verb(
            name="reconstruct",
            request="plugins.medical.request:ReconstructRequest",
            result="core.request:SampleResult",
            target="plugins.medical.inference.reconstruct:sample",
            summary="Held-out slices from simulated measurements",
        ),
        Verb(
            name="samplers",
            request="plugins.medical.request:SamplersRequest",
            result="plugins.medical.request:SamplersResult",
            target="plugins.medical.evaluation.samplers:compare",
            summary="Posterior samplers with one prior, in one table",
        ),
    ),
)
