"""Osteon: a DICOM network node for imaging AI. A CT series in, its bones back in the PACS."""
