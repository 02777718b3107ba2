"""Numbers of a file to images and back."""

import numpy as np
import pytest
import torch

from pyro_vble.physics import Radiometry

ALL = np.arange(2**16, dtype=np.uint16).reshape(1, 256, 256)
RADIOMETRIES = {
    "bits": Radiometry(bits=16, dtype="uint16"),
    "12 bits": Radiometry(bits=12, dtype="uint16"),
    "reflectance": Radiometry(white=1.0, gain=1e-4, offset=-0.1, dtype="uint16"),
    "radiance": Radiometry(bits=16, gain=0.0372, offset=-17.3, dtype="uint16"),
    "a band": Radiometry(bits=16, gain=[0.01], offset=[3.0], dtype="uint16"),
}


@pytest.mark.parametrize("name", RADIOMETRIES)
class TestRoundTrip:
    @pytest.mark.parametrize("kind", [np.uint16, np.float32, np.float64])
    def test_every_number_of_an_array(self, name, kind):
        x = RADIOMETRIES[name].to_unit(ALL.astype(kind))
        assert x.dtype == (np.float64 if kind == np.float64 else np.float32)
        back = RADIOMETRIES[name].from_unit(x)
        assert back.dtype == np.uint16
        np.testing.assert_array_equal(back, ALL)

    def test_every_number_of_a_tensor(self, name):
        for values in (torch.from_numpy(ALL), torch.from_numpy(ALL.astype(np.float32))):
            x = RADIOMETRIES[name].to_unit(values)
            assert x.dtype == torch.float32
            back = RADIOMETRIES[name].from_unit(x)
            assert back.dtype == torch.uint16
            np.testing.assert_array_equal(back.numpy(), ALL)


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_number_of_every_width(bits):
    values = np.arange(2**bits, dtype=np.uint16)[None]
    radiometry = Radiometry(bits=bits, dtype="uint16")
    x = radiometry.to_unit(values)
    assert (float(x[0, 0]), float(x[0, -1])) == (0, 1)
    np.testing.assert_array_equal(radiometry.from_unit(x), values)


def test_signed_numbers():
    values = np.arange(-(2**15), 2**15, dtype=np.int16)[None]
    radiometry = Radiometry(white=10000.0, dtype="int16")
    np.testing.assert_array_equal(radiometry.from_unit(radiometry.to_unit(values)), values)


def test_bands_have_their_own():
    radiometry = Radiometry(bits=12, gain=[1.0, 2.0], offset=[0.0, 10.0], dtype="uint16")
    values = np.full((2, 3, 4), 100, np.uint16)
    x = radiometry.to_unit(values)
    np.testing.assert_allclose(x[0], 100 / 4095, rtol=1e-6)
    np.testing.assert_allclose(x[1], 210 / 8200, rtol=1e-6)
    np.testing.assert_array_equal(radiometry.from_unit(x), values)
    np.testing.assert_array_equal(radiometry.of_bands(1).to_unit(values[1:]), x[1:])
    assert radiometry.of_bands(1, 0).gain == (2.0, 1.0)
    with pytest.raises(ValueError, match=r"values must have 2 bands .* received shape \(3, 4\)"):
        radiometry.to_unit(values[0])


class TestFromUnit:
    def test_whole_numbers_are_rounded_and_clipped(self):
        x = np.array([[-0.2, 0.4999, 0.501, 300.0]], np.float32)
        radiometry = Radiometry(bits=8, dtype="uint8")
        assert radiometry.from_unit(x).tolist() == [[0, 127, 128, 255]]
        assert radiometry.from_unit(torch.from_numpy(x), "int16").tolist() == [[-51, 127, 128, 32767]]
        for limit in ("int32", "uint32", "int64", "uint64"):
            assert radiometry.from_unit(np.full((1, 1), 1e30), limit)[0, 0] > 0.99 * np.iinfo(limit).max

    def test_nan_is_kept_or_told_of(self):
        radiometry = Radiometry(bits=8, dtype="uint8")
        for x in (np.array([[0.2, np.nan]], np.float32), torch.tensor([[0.2, torch.nan]])):
            assert np.isnan(np.asarray(radiometry.to_unit(x))).tolist() == [[False, True]]
            assert np.isnan(np.asarray(radiometry.from_unit(x, "float32"))).tolist() == [[False, True]]
            with pytest.raises(ValueError, match=r"NaN has no number in uint8; .* nodata first"):
                radiometry.from_unit(x)

    def test_without_a_type_in_single_precision(self):
        assert Radiometry(bits=8).from_unit(np.ones((1, 1))).dtype == np.float32
        assert Radiometry(bits=8).from_unit(torch.ones(1, 1), torch.float64).dtype == torch.float64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "Exactly one of bits and white is needed"),
        ({"bits": 8, "white": 255.0}, "Exactly one of bits and white is needed"),
        ({"bits": 0}, "bits must be "),
        ({"bits": 8, "gain": -1.0}, "gain must be "),
        ({"bits": 8, "offset": float("nan")}, "offset must be "),
        ({"bits": 8, "offset": -300.0}, "The largest number must have a positive radiance"),
        ({"bits": 8, "gain": [1, 2], "offset": [1, 2, 3]}, "must be of equally many bands"),
        ({"bits": 8, "dtype": "complex64"}, "dtype must be "),
    ],
)
def test_what_makes_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Radiometry(**wrong)


def test_what_is_no_image():
    with pytest.raises(TypeError, match="values must be an array or a tensor of real numbers"):
        Radiometry(bits=8).to_unit([[1, 2]])
    with pytest.raises(ValueError, match="dtype must be the name of a type of real numbers; received 'colour'"):
        Radiometry(bits=8).from_unit(np.ones((1, 1)), "colour")
