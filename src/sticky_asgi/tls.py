"""How the gateway proves a backend's identity, and its own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from os import PathLike

from .checks import check_type


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """TLS towards the backends of a pool whose URLs begin with `https://`.

    Args:
        ca_file: PEM file of the authorities to trust. Default None: the system's.
        client_cert: PEM file with the certificate chain the gateway presents. Default None.
        client_key: PEM file with its key. Default None: the key is in `client_cert`.
        server_name: Name sent as SNI and expected in the certificate. Default None: the host of
            the backend's URL; set it when backends are addressed by IP.
        verify: Whether to verify. Default True. `False` accepts anyone who answers at the
            address, so it takes this explicit word.

    Raises:
        ValueError: `client_key` without `client_cert`, `ca_file` together with `verify=False`, an
            empty name, or a `verify` that is neither True nor False.
        TypeError: A file or a `server_name` that is no string.
    """

    ca_file: str | PathLike[str] | None = None
    client_cert: str | PathLike[str] | None = None
    client_key: str | PathLike[str] | None = None
    server_name: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        for name in ("ca_file", "client_cert", "client_key", "server_name"):
            value = getattr(self, name)
            types = (str,) if name == "server_name" else (str, PathLike)
            check_type(name, value, *types, None)
            # An empty ca_file would make ssl trust the system's authorities.
            if value == "":
                raise ValueError(f"{name} must be a name or None, got ''")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError(f"client_key {self.client_key!r} needs a client_cert")
        if not isinstance(self.verify, bool):
            # Any word would be true, "false" and "no" included.
            raise ValueError(f"verify must be True or False, got {self.verify!r}")
        if not self.verify and self.ca_file is not None:
            raise ValueError(f"ca_file {self.ca_file!r} is pointless with verify=False")

    def create_context(self) -> ssl.SSLContext:
        """Load the files. Raises OSError or ssl.SSLError when one cannot be read."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context
