"""The native engine's server inside this process; see snapshot/native.py."""

def serve(orders: int, /) -> int:
    """Serve one mount, as the orders on this descriptor say, until it is unmounted. Changes the calling thread, which
    must end afterwards, and nothing else of the process. Returns 0 or a negative errno; `report` in the orders hears
    more.
    """
