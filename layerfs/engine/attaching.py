"""A container's streams as its clients see them: the monitor's connection and its records."""

from layerfs.runtime.monitor import CHUNK, NOTHING, Attach, Connection, Ended, Message, Output, Started

__all__ = ["CHUNK", "NOTHING", "Attach", "Connection", "Ended", "Message", "Output", "Started"]
