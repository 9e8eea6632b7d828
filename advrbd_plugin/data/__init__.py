"""Images and their labels: what the algorithm is given, and where it comes from."""

from advrbd_plugin.data.digits import load_digits, split
from advrbd_plugin.data.folder import LoadedImages, load_folder
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw_images

__all__ = ["ImageSet", "LoadedImages", "draw_images", "load_digits", "load_folder", "split"]
