"""`lbctl verify`: the proof, on a running stack, that no disturbance costs a request.

A load without retries runs through the lb (`load.py`, `answers.py`) while one disturbance after
the other is done to the stack (`disturbances.py`, by the `hands.py` of its runtime). What each
one cost is counted (`tally.py`) and held against what was promised (`promises.py`).
"""
