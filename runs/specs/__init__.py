"""The shipped presets (``*.toml``), each only what differs from the defaults, and the arms (``arms.toml``)."""
