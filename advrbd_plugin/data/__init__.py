"""Images and their labels: what the algorithm is given, and where it comes from."""

from advrbd_plugin.data.datasets import DATASETS, load_dataset, recognise
from advrbd_plugin.data.digits import load_digits, split
from advrbd_plugin.data.doors import load_data
from advrbd_plugin.data.folder import load_folder
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.reading import LoadedImages
from advrbd_plugin.data.selection import draw_images
from advrbd_plugin.data.tables import Columns

__all__ = [
    "DATASETS",
    "Columns",
    "ImageSet",
    "LoadedImages",
    "draw_images",
    "load_data",
    "load_dataset",
    "load_digits",
    "load_folder",
    "recognise",
    "split",
]
