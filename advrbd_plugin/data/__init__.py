"""Images and their labels: what the algorithm is given, and where it comes from."""

from advrbd_plugin.data.image_set import ImageSet

__all__ = ["ImageSet"]
