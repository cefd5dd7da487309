"""How files are read and written: Kedro datasets, and the store of visual features."""
