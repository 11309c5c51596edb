"""Settings, errors, device, files and progress: what every other room stands on."""
