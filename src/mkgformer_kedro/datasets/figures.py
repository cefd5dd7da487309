"""Figures that are whole or not there. Apart from ``tables``, since matplotlib loads slowly."""

from kedro_datasets.matplotlib import MatplotlibDataset as _MatplotlibDataset
from PIL.Image import Image
from PIL.Image import open as open_image

from mkgformer_kedro.datasets.tables import AtomicSave


class MatplotlibDataset(AtomicSave, _MatplotlibDataset):
    """One matplotlib figure as an image file, written atomically."""

    def load(self) -> Image:
        """Read the image that the figure has become."""
        with open_image(self._filepath) as image:
            image.load()
        return image
