"""From noise to pictures: the noise process, and the two denoisers."""
