"""Which GPU takes the next piece of work, and what the GPUs are doing.

``Balancer`` chooses: by the work that was given out and is not done, by what of the work a GPU has
already, then by what a ``Monitor`` reads of utilisation and memory. ``Watch`` reads it in a thread of
its own and tries GPUs that have failed. ``NvmlMonitor`` reads NVIDIA's GPUs; anything with two methods
will do. docs/DEVICES.md says how it weighs them and why.
"""

from blatam_kv.devices.balancer import Balancer, Ticket
from blatam_kv.devices.nvml import NvmlMonitor
from blatam_kv.devices.reading import Devices, DeviceSnapshot, Monitor, Reading
from blatam_kv.devices.watch import Watch
from blatam_kv.devices.weights import Weights

__all__ = [
    "Balancer",
    "DeviceSnapshot",
    "Devices",
    "Monitor",
    "NvmlMonitor",
    "Reading",
    "Ticket",
    "Watch",
    "Weights",
]
