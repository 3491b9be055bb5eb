"""The pictures and figures of the model card, made anew by `python -m training.card`."""
