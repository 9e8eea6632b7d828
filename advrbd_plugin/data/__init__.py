"""Images and their labels: what the algorithm is given, and where it comes from."""

from advrbd_plugin.data.digits import load_digits, split
from advrbd_plugin.data.folder import LoadedImages, load_folder
from advrbd_plugin.data.image_set import ImageSet

__all__ = ["ImageSet", "LoadedImages", "load_digits", "load_folder", "split"]
