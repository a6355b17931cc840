"""Files of scans, read with their geometry in the patient, and results written in it."""
