"""Optical sensors as YAML files: their bands' optics, noise and numbers, by name or by path."""

from pyro_vble.sensors.loading import load_sensor, sensor_names
from pyro_vble.sensors.settings import Band, Noise, Optics, SensorSettings

__all__ = ["Band", "Noise", "Optics", "SensorSettings", "load_sensor", "sensor_names"]
