"""Result objects: labels in, DICOM Segmentations out, and their way to a destination."""
