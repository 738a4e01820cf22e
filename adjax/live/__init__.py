"""Live audio: from a device or file through the codec to another, in one process or over UDP."""

from adjax.live.endpoints import DeviceSink, DeviceSource, FileSink, FileSource, list_devices
from adjax.live.engine import frames_of_ms, run_live
from adjax.live.receiver import Receiver, run_receive
from adjax.live.sender import run_send

__all__ = [
    "DeviceSink",
    "DeviceSource",
    "FileSink",
    "FileSource",
    "Receiver",
    "frames_of_ms",
    "list_devices",
    "run_live",
    "run_receive",
    "run_send",
]
