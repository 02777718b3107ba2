"""Check types in the wheel, where ``pyro_vble.models`` and ``pyro_vble.guides`` are where users find them.

    python -m tools.check_types

In the tree those two packages lie at the top, and no type checker finds them under their names. Settings are pyright's,
in ``pyproject.toml``.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Build the wheel, unpack it, and run pyright there; returns its exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A copy: what an earlier build left in the tree would go into the wheel.
        tree = shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(".git", "build", "*.egg-info"))
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", tree]
        subprocess.run(build, check=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "wheel")
        if not (folder / "wheel" / "pyro_vble" / "py.typed").is_file():
            print("py.typed is missing from the wheel: nobody would believe its annotations")
            return 1
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
        (folder / "wheel" / "pyrightconfig.json").write_text(json.dumps(settings | {"include": ["pyro_vble"]}))
        check = [sys.executable, "-m", "pyright", "--project", folder / "wheel", "--pythonpath", sys.executable]
        return subprocess.run(check, check=False, cwd=folder / "wheel").returncode


if __name__ == "__main__":
    sys.exit(main())
