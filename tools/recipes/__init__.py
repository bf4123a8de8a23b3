"""What each training is made of: settings, data, networks, validation."""
