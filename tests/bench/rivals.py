"""The environment in which rivals live: made by pip from a list, apart from the product's."""

import shutil
import subprocess
import sys
from pathlib import Path


def environment(folder: Path, listed: Path) -> Path:
    """Make a virtual environment unless it has what is listed; return its folder."""
    wanted, stamp = listed.read_text(), folder / "rivals.txt"
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", listed]
        subprocess.run(pip, check=True)
        stamp.write_text(wanted)
    return folder
