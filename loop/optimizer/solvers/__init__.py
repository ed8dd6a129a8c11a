"""Which candidate allocation each server gets; pure."""
