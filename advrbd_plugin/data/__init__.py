"""Images and their labels: what the algorithm is given, and where it comes from."""

from advrbd_plugin.data.datasets import DATASETS, load_dataset, recognise
from advrbd_plugin.data.digits import load_digits, split
from advrbd_plugin.data.folder import load_folder
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.reading import LoadedImages
from advrbd_plugin.data.selection import draw_images

__all__ = [
    "DATASETS",
    "ImageSet",
    "LoadedImages",
    "draw_images",
    "load_dataset",
    "load_digits",
    "load_folder",
    "recognise",
    "split",
]
