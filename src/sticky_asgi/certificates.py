"""What is wrong with the files of a certificate, in words for whoever has named them."""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple


def wrong_certificate(file: str | os.PathLike[str]) -> str | None:
    """Why a file holds no certificates that can be trusted; None: it does."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return "there is no certificate in PEM form in it"
    except OSError as exc:
        return exc.strerror
    return None


class WrongChain(NamedTuple):
    """Why a certificate chain cannot be used.

    Args:
        in_key: Whether the file of the key is to blame.
        message: The file and the reason.
    """

    in_key: bool
    message: str


def wrong_chain(
    certfile: str | os.PathLike[str], keyfile: str | os.PathLike[str] | None
) -> WrongChain | None:
    """Find out what is wrong with a certificate chain and its key; nobody is asked for a password.

    Args:
        certfile: PEM file with the chain.
        keyfile: PEM file with the key; None: it is in `certfile`.
    """
    in_key = keyfile is not None
    key = certfile if keyfile is None else keyfile
    if reason := wrong_certificate(certfile):
        return WrongChain(False, f"{str(certfile)!r}: {reason}")

    def password() -> str:
        raise ValueError("the key is encrypted")

    try:
        with open(key, "rb"):
            pass
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            reason = f"the key does not belong to the certificate in {str(certfile)!r}"
        elif exc.reason is not None and exc.reason.endswith("_TOO_SMALL"):
            reason = "the key is too small"
        else:
            reason = "there is no key in PEM form in it"
        return WrongChain(in_key, f"{str(key)!r}: {reason}")
    except OSError as exc:
        return WrongChain(in_key, f"{str(key)!r}: {exc.strerror}")
    except ValueError as exc:
        return WrongChain(in_key, f"{str(key)!r}: {exc}")
    return None
