"""Keys the platform makes for itself, once, in the home (mode 600); they never leave it."""

from __future__ import annotations

import os
import secrets

from warehouse.home import Home


def identity_secret(home: Home) -> bytes:
    """The key that one_ids are minted with. Without it they cannot be computed from phone numbers."""
    path = home.secrets / "identity.key"
    if not path.exists():
        home.secrets.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
    return bytes.fromhex(path.read_text(encoding="ascii").strip())
