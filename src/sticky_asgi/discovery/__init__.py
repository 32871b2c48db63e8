"""Sources of backends: pools that find their backends by themselves."""
