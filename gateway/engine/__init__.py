"""The painter: a pure numpy library that draws a picture step by step, the embedded default upstream."""
