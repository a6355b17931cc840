"""Scans for tests: an asymmetric volume, and DICOM files written field by field."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

NAME, NUMBER = "Zwicknagl^Apollonia", "MRN-90817263"
CT = UID("1.2.840.10008.5.1.4.1.1.2")


def volume(d=5, h=7, w=9):
    """Whole numbers, no two slices, rows or columns alike."""
    k, i, j = np.mgrid[:d, :h, :w]
    return (100 * k + 10 * i + j - 200).astype(np.float32)


def turned(degrees=20.0):
    """Directions along a row and down a column, oblique."""
    angle = np.radians(degrees)
    across = np.array([np.cos(angle), np.sin(angle), 0.0])
    down = np.array([-np.sin(angle) * 0.6, np.cos(angle) * 0.6, 0.8])
    return across, down


WAYS = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": turned(),
}


def write_series(
    folder: Path,
    voxels=None,
    *,
    spacing=(2.5, 0.7, 0.7),
    ways=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    first=(-10.0, 20.0, 30.0),
    series=None,
    change=lambda number, data: None,
):
    """A CT series as a scanner writes it, its files in no order; `change` spoils them."""
    voxels = volume() if voxels is None else voxels
    across, down = map(np.asarray, ways)
    normal, series = np.cross(across, down), series or generate_uid()
    study, frame = generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for number, slice_ in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, generate_uid()
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.FrameOfReferenceUID = frame
        data.PatientName, data.PatientID, data.Modality = NAME, NUMBER, "CT"
        data.InstitutionName = f"Hospital of {NAME}"
        data.ImagePositionPatient = list(np.asarray(first) + number * spacing[0] * normal)
        data.ImageOrientationPatient = [*across, *down]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = slice_.shape
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (slice_ + 1024).astype("<u2").tobytes()
        change(number, data)
        data.save_as(folder / f"{(number * 7 + 3) % 11:02d}.dcm", enforce_file_format=True)
    return folder


def every(**fields):
    """A change of every file."""

    def change(at, data):
        for name, value in fields.items():
            setattr(data, name, value)

    return change
