"""Names to bytes over HTTP: the OCI distribution protocol 1.1 and docker's registry API 2, as a client.

    registries = Registries(Settings.load(os.environ))
    client = registries.client("registry.example:5000")
    manifest = client.manifest("team/app", "1.2").document

`transport` is HTTP, `auth` tokens, `session` both for one registry, `client` what can be asked of it.
"""

from __future__ import annotations

from layerfs._lazy import loader

__getattr__ = loader(
    __name__,
    {
        "BlobStream": "client",
        "Client": "client",
        "Fetched": "client",
        "Registries": "connect",
        "Settings": "config",
    },
)

__all__ = ["BlobStream", "Client", "Fetched", "Registries", "Settings"]
