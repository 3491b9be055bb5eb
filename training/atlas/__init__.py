"""Makes the icons that the embedded model draws and the index of their words; `python -m training.atlas` runs it."""
