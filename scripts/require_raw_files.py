"""Stop, naming every data set that cannot be built yet, where a data set has no raw files.

Usage: python scripts/require_raw_files.py <folder in data/01_raw>
"""

import sys
from pathlib import Path

RAW = Path("data/01_raw")


def has_files(folder: Path) -> bool:
    """Whether anything but our README lies in the folder."""
    return folder.is_dir() and any(path.name != "README.md" for path in folder.iterdir())


def main(name: str) -> None:
    """Pass silently, or exit with a message."""
    if has_files(RAW / name):
        return
    others = {folder.name for folder in RAW.iterdir() if folder.is_dir() and not has_files(folder)}
    missing = ", ".join(str(RAW / other) for other in sorted({name} | others))
    sys.exit(
        f"No raw files in: {missing}. docs/data.md says where they come from and where to put them."
        "\nThe other data sets can be built: dvc repro --keep-going, or dvc repro evaluate@<name>."
    )


if __name__ == "__main__":
    main(sys.argv[1])
