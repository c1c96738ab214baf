"""The ground under every room: checks of what a caller gives, files as the systems have them."""
