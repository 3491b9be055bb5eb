"""How far a job is and how long it may still take."""


def ratio_of(images_done: int, images: int, step: int, steps: int) -> float:
    """Return the share of a job's work that is done, 0 to 1, over all its images."""
    share = step / steps if steps else 0.0
    return min(1.0, (images_done + share) / max(1, images))


def remaining_ms(elapsed_seconds: float, ratio_at_begin: float, ratio: float) -> int | None:
    """Return the milliseconds still to go at the pace so far; `None` before anything is done."""
    done = ratio - ratio_at_begin
    if done <= 0:
        return None
    return int(elapsed_seconds / done * (1.0 - ratio) * 1000)
