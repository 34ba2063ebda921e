"""Tags out to WeCom: what each relation should have, what must change, and whether it may. Pure."""
