"""Settings: TOML and environment in, frozen typed values out. Every default stands here, once."""
