"""Lightning systems: what is optimised, with what losses, in which stages."""
