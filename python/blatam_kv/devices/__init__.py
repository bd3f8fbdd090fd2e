"""Which GPU takes the next piece of work, and what the GPUs are doing.

``Balancer`` chooses: by the work that was given out and is not done, then by what a ``Monitor``
reads of utilisation and memory. ``NvmlMonitor`` reads NVIDIA's GPUs; anything with two methods will
do. docs/CUDA.md, "Several GPUs", says how it weighs them and why.
"""

from blatam_kv.devices.balancer import Balancer, Ticket, Weights
from blatam_kv.devices.nvml import NvmlMonitor
from blatam_kv.devices.reading import DeviceSnapshot, Monitor, Reading

__all__ = ["Balancer", "DeviceSnapshot", "Monitor", "NvmlMonitor", "Reading", "Ticket", "Weights"]
