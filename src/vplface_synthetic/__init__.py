"""A renderer of faces of people who do not exist: heads, light, expression, age, occlusion and camera effects.

It needs numpy and OpenCV, and nothing of ``vplface``, which writes its pictures to folders and trains on them.
"""

try:
    import cv2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "vplface_synthetic needs OpenCV; install it with: pip install 'vplface[train]'"
    ) from error

from vplface_synthetic.faces import SyntheticFaces

__all__ = ["SyntheticFaces"]
