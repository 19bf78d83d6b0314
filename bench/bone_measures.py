"""How far a mask of bone is off: at its surface, and outside of the body.

Masks on a rectangular grid and Hounsfield units enter, millimetres and masks leave. Called by
`bones`.
"""

import cc3d
import fill_voids
import numpy as np
import SimpleITK
from numpy.typing import NDArray

from osteon.pipeline.bones.filters import box_maximum, box_minimum, voxels

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

# Fat, muscle and bone are above, lung, foam and clothes below.
BODY_HU = -300
# A shell of a table is thinner than twice this and a finger, wherever cut, is not.
SHELL_MM = 3.0
# Arms and feet are parts of the body too; what falls off a table is smaller.
PART_OF_LARGEST_MIN = 0.02


def surface_distances_mm(
    found: Mask, reference: Mask, spacing_zyx_mm: Spacing
) -> tuple[float, float] | None:
    """Return mean and 95th percentile of the symmetric surface distance, or None without surface.

    From every voxel at the surface of one mask to the nearest at that of the other, both ways, all
    counted alike. Where the volume ends is no surface.
    """
    if not found.any() or not reference.any():
        return None
    images = [_image(mask, spacing_zyx_mm) for mask in (found, reference)]
    distances = [
        np.abs(
            SimpleITK.GetArrayFromImage(
                SimpleITK.SignedMaurerDistanceMap(
                    image, squaredDistance=False, useImageSpacing=True
                )
            )
        )
        for image in images
    ]
    surfaces = [SimpleITK.GetArrayFromImage(SimpleITK.LabelContour(image)) for image in images]
    apart_mm = np.concatenate([distances[1][surfaces[0] > 0], distances[0][surfaces[1] > 0]])
    if apart_mm.size == 0:
        return None
    return float(apart_mm.mean()), float(np.percentile(apart_mm, 95))


def _image(mask: Mask, spacing_zyx_mm: Spacing) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing_zyx_mm[::-1])
    return image


def body_of(hu_zyx: NDArray[np.int16] | NDArray[np.float32], spacing_zyx_mm: Spacing) -> Mask:
    """Return the body with its cavities, without the table.

    What is denser than lung, less what is thin as the shell of a table, in its large parts; those
    are given back their edges and filled slice by slice. Of a plastic skull in air it is nothing
    to rely on: its walls are as thin as a shell.
    """
    dense = np.ascontiguousarray(hu_zyx > BODY_HU)
    _, rows, columns = voxels(SHELL_MM, spacing_zyx_mm, at_least=1)
    within = (0, rows, columns)
    thick = box_maximum(box_minimum(dense.view(np.uint8) * np.uint8(255), within), within) > 0
    parts = cc3d.connected_components(thick, connectivity=6)
    sizes = np.bincount(parts.ravel(order="K"))
    sizes[0] = 0
    large = np.ascontiguousarray((sizes >= max(1, PART_OF_LARGEST_MIN * sizes.max()))[parts])
    body = box_maximum(large, within) & dense
    for plane in body:
        plane[...] = fill_voids.fill(plane)
    return body
