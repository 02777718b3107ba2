"""What a page shows, read from the files that a restoration left."""

from pathlib import Path

from pyro_vble._arguments import PathName, checked
from pyro_vble.page.content import Content
from pyro_vble.page.folders import of_folder
from pyro_vble.page.scenes import of_scene


@checked
def content_of(path: PathName, before: PathName | None = None) -> Content:
    """What a page shows of a restoration: the folder that ``pyro-vble restore`` or ``demo`` wrote, or a scene.

    Args:
        path: The folder; of a scene its GeoTIFF, beside which the other files of the scene stand.
        before: The image that was restored, where it is no longer where it was.

    Raises:
        FileNotFoundError: If there is no restoration.
        ImportError: If it is a scene, and rasterio is not installed.
        TypeError: If an argument is of a wrong type.
        ValueError: If it cannot be read.
    """
    path, before = Path(path), None if before is None else Path(before)
    if not path.exists():
        raise FileNotFoundError(f"No restoration at {path}; give the output folder of restore, or the OUT of scene.")
    return of_folder(path, before) if path.is_dir() else of_scene(path, before)
