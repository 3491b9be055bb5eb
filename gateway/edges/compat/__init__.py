"""The doors for programs that speak another image API: each dialect a thin translator onto the same admission.

`doors` has what all share: who asks, the submit, the wait for the job's end, the headers. A dialect reads requests into
a `Wish`, renders a `Result`, and has one literal table that says each of our error codes in its own words. No door has
a rule about limits, money or safety: those are admission's.
"""
