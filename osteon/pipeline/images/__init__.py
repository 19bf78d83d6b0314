"""From headers and pixel data to voxels: geometry, decoding, tilt."""
