"""What made a scene, as a STAC item: valid, where it lies, when it was taken, what is in it."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.warp import transform as transformed
from scene.rasters import NORTH_UP, TURNED, save, values_of

from pyro_vble.io.rasters import Raster
from pyro_vble.scene.footprint import footprint
from pyro_vble.scene.manifest import PROCESSING, PROJECTION, RASTER, Making, acquired, validate, write_manifest
from pyro_vble.scene.sources import open_source
from pyro_vble.scene.writing import write_cog

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]

UTM = rasterio.CRS.from_epsg(32631)
MAKING = Making(
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=1))),
    "cae-bsd",
    "0" * 64,
    {"name": "pleiades-like", "bits": 12},
    {"tile": 512, "steps": 60},
    {"fit": 7, "samples": 8},
    [(512, 0, 512, 512)],
    "scene.tif",
    "abc",
)


def area(ring):
    x, y = np.asarray(ring).T
    return ((x[:-1] - x[0]) * (y[1:] - y[0]) - (x[1:] - x[0]) * (y[:-1] - y[0])).sum() / 2


def has_corners(ring, corners):
    return all(np.abs(np.asarray(ring) - corner).max(1).min() < 1e-8 for corner in corners)


# --- where ---


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_the_footprint_has_the_grounds_corners(transform):
    outline, box = footprint(Raster(40, 50, UTM, transform))
    (ring,) = outline["coordinates"]
    corners = [transform * corner for corner in ((0, 0), (50, 0), (50, 40), (0, 40))]
    corners = np.stack(transformed(UTM, "EPSG:4326", *zip(*corners, strict=True)), -1)
    assert has_corners(ring, corners)
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    assert box == pytest.approx([*corners.min(0), *corners.max(0)], abs=1e-6)


def test_enlarging_moves_nothing():
    raster = Raster(40, 50, UTM, TURNED)
    (once,), (twice,) = (footprint(one)[0]["coordinates"] for one in (raster, raster.enlarged(80, 100)))
    assert np.allclose(once, twice, rtol=0, atol=1e-9)


def test_across_the_180th_meridian():
    """Zone 1 begins there, 3 degrees west of its middle at 500 km."""
    transform = rasterio.Affine(100.0, 0.0, 100000.0, 0.0, -100.0, 20000.0)
    outline, (west, south, east, north) = footprint(Raster(100, 1000, rasterio.CRS.from_epsg(32601), transform))
    assert outline["type"] == "MultiPolygon"
    assert all(area(ring) > 0 for (ring,) in outline["coordinates"])
    assert (west, east) == pytest.approx((179.407655, -179.695026), abs=1e-3)
    assert south < north


def test_points_and_polynomials_say_where(shared_data):
    corners = [(0, 0, 5.0, 45.0), (0, 50, 5.5, 45.1), (40, 50, 5.6, 44.7), (40, 0, 5.1, 44.6)]
    points = tuple(GroundControlPoint(row, col, x, y, 0.0) for row, col, x, y in corners)
    outline, _ = footprint(Raster(40, 50, gcps=points, gcps_crs=rasterio.CRS.from_epsg(4326)))
    assert has_corners(outline["coordinates"][0], [(x, y) for *_, x, y in corners])
    source = open_source(shared_data / "pleiades_pan" / "img_01.tif")
    rpcs = source.raster.rpcs
    _, (west, south, east, north) = footprint(source.raster)
    assert rpcs.long_off - rpcs.long_scale < west < east < rpcs.long_off + rpcs.long_scale
    assert rpcs.lat_off - rpcs.lat_scale < south < north < rpcs.lat_off + rpcs.lat_scale
    # About 1,024 pixels of 0.5 m.
    assert 300 < (north - south) * 111e3 < 800


@pytest.mark.parametrize(
    "raster",
    [
        Raster(40, 50),
        Raster(40, 50, None, NORTH_UP),
        Raster(40, 50, rasterio.CRS.from_wkt('LOCAL_CS["nowhere",UNIT["metre",1]]'), NORTH_UP),
        Raster(40, 50, UTM, rasterio.Affine(1e9, 0, 0, 0, 1e9, 0)),
    ],
)
def test_a_scene_that_lies_nowhere(raster):
    assert footprint(raster) is None


# --- when ---


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"TIFFTAG_DATETIME": "2024:05:06 07:08:09"}, "2024-05-06T07:08:09+00:00"),
        ({"ACQUISITIONDATETIME": "2024-05-06 07:08", "TIFFTAG_DATETIME": "2025:01:01 00:00:00"},
         "2024-05-06T07:08:00+00:00"),
        ({"AcquisitionDate": "2024/05/06"}, "2024-05-06T00:00:00+00:00"),
        ({"EXIF_DateTimeOriginal": "2024:05:06 07:08:09"}, "2024-05-06T07:08:09+00:00"),
        ({"SENSING_TIME": "2024-05-06T07:08:09.123456Z"}, "2024-05-06T07:08:09+00:00"),
        ({"SENSING_TIME": "2024-05-06T07:08:09-03:30"}, "2024-05-06T07:08:09-03:30"),
        ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
        ({"ACQUISITION": "in the morning", "MISSION": "2024-05-06"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_when_a_scene_was_taken(tags, expected):
    found = acquired(tags)
    assert (found and found.isoformat()) == expected


# --- the item ---


def products(folder, raster, values):
    for name in ("restored", "standard-deviation"):
        kind = (raster, np.int16) if name == "restored" else (raster.of_widths(), np.float32)
        write_cog(folder / f"{name}.tif", lambda rows, columns: values[:, rows, columns], values.shape, *kind)
    return {
        "restored": folder / "restored.tif",
        "standard-deviation": folder / "standard-deviation.tif",
        "posterior": folder / "store" / "posterior.zarr",
    }


def test_an_item_says_what_made_it(tmp_path):
    values = values_of("int16", (2, 40, 50))
    save(tmp_path / "x.tif", values, transform=TURNED, nodata=-7)
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        file.descriptions, file.units = ["red", "nir"], ["reflectance"] * 2
        file.scales, file.offsets = [1e-4] * 2, [-0.1] * 2
        file.update_tags(TIFFTAG_DATETIME="2024:05:06 07:08:09")
    raster = open_source(tmp_path / "x.tif").raster.enlarged(80, 100)
    path = write_manifest(
        tmp_path / "y.json", products(tmp_path, raster, values.repeat(2, 1).repeat(2, 2)), raster, MAKING
    )
    item = pystac.Item.from_file(str(path))
    validate(json.loads(path.read_text()))
    assert item.id == "y"
    assert item.datetime == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert set(item.stac_extensions) == {PROCESSING, PROJECTION, RASTER}
    told = item.properties
    assert told["created"] == told["pyro_vble:ended"] == "2026-01-02T04:04:05Z"
    assert told["pyro_vble:started"] == "2026-01-02T03:04:05Z"
    assert told["processing:software"].keys() >= {"pyro-vble", "python", "torch", "rasterio"}
    assert told["pyro_vble:prior"] == {"name": "cae-bsd", "sha256": "0" * 64}
    assert told["pyro_vble:sensor"] == {"name": "pleiades-like", "bits": 12}
    assert told["pyro_vble:settings"] == {"tile": 512, "steps": 60}
    assert told["pyro_vble:seeds"] == {"fit": 7, "samples": 8}
    assert told["pyro_vble:failed_windows"] == [[512, 0, 512, 512]]
    assert told["proj:code"] == "EPSG:32631"
    assert told["proj:shape"] == [80, 100]
    assert rasterio.Affine(*told["proj:transform"]).almost_equals(TURNED @ rasterio.Affine.scale(0.5))
    restored, width, posterior = (item.assets[name] for name in ("restored", "standard-deviation", "posterior"))
    assert (restored.href, posterior.href) == ("./restored.tif", "./store/posterior.zarr")
    assert restored.media_type == pystac.MediaType.COG
    assert posterior.media_type == pystac.MediaType.VND_ZARR
    assert restored.roles == ["data", "restored"]
    assert width.roles == ["data", "standard-deviation"]
    band = {"name": "nir", "data_type": "int16", "unit": "reflectance", "nodata": -7}
    assert restored.extra_fields["bands"][1] == {**band, "raster:scale": 1e-4, "raster:offset": -0.1}
    assert width.extra_fields["bands"][1] == {
        **band,
        "data_type": "float32",
        "raster:scale": 1e-4,
        "raster:offset": 0.0,
    }


def test_a_scene_without_georeference_has_a_null_geometry(tmp_path):
    values = values_of("float32", (1, 40, 50))
    values[0, 0, 0] = np.nan
    path = write_manifest(tmp_path / "y.json", products(tmp_path, Raster(40, 50), values), Raster(40, 50), MAKING)
    content = json.loads(path.read_text())
    validate(content)
    assert content["geometry"] is None
    assert "bbox" not in content
    assert content["stac_extensions"] == [PROCESSING]
    assert content["properties"]["datetime"] == "2026-01-02T04:04:05Z"
    assert content["assets"]["standard-deviation"]["bands"] == [{"data_type": "float32", "nodata": "nan"}]


def test_a_system_without_a_number_is_written_out(tmp_path, shared_data):
    raster = open_source(shared_data / "geotiff" / "sample_geotiff_custom_proj.tif").raster
    path = write_manifest(tmp_path / "y.json", {"posterior": tmp_path / "x.zarr"}, raster, MAKING)
    told = json.loads(path.read_text())["properties"]
    assert told["proj:code"] is None
    assert "Albers" in told["proj:wkt2"]


def test_what_is_no_item_is_refused(tmp_path):
    content = {"posterior": tmp_path / "x.zarr"}
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(
            tmp_path / "y.json", content, None, Making(MAKING.started, MAKING.ended, "x", settings={"a": math.nan})
        )
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(
            tmp_path / "y.json", content, None, Making(MAKING.started, MAKING.ended, "x", settings={"a": {1, 2}})
        )
    with pytest.raises(ValueError, match="at least one"):
        write_manifest(tmp_path / "y.json", {}, None, MAKING)
    assert list(tmp_path.iterdir()) == []
    path = write_manifest(tmp_path / "y.json", content, None, MAKING)
    wrong = json.loads(path.read_text())
    wrong["properties"]["datetime"] = 7
    with pytest.raises(ValueError, match="valid STAC item"):
        validate(wrong)


def test_without_jsonschema_the_structure_is_validated(tmp_path, monkeypatch):
    from pystac.validation import stac_validator

    monkeypatch.setattr(stac_validator, "HAS_JSONSCHEMA", False)
    path = write_manifest(tmp_path / "y.json", {"posterior": tmp_path / "x.zarr"}, None, MAKING)
    wrong = json.loads(path.read_text())
    del wrong["id"]
    with pytest.raises(ValueError, match="valid STAC item"):
        validate(wrong)
