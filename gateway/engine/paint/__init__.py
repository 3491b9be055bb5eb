"""From a request to pixels: the canvas, the steps, and the enlargement."""
