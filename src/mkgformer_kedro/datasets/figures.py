"""Figures that are whole or not there. Apart from ``tables``, since matplotlib loads slowly."""

from kedro_datasets.matplotlib import MatplotlibDataset as _MatplotlibDataset

from mkgformer_kedro.datasets.tables import AtomicSave


class MatplotlibDataset(AtomicSave, _MatplotlibDataset):
    """One matplotlib figure as an image file, written atomically."""
