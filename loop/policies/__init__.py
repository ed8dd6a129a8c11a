"""What decides, one policy a file; pure."""
