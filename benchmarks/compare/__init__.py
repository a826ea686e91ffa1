"""Every proxy in turn, several rounds, the same backends: what a request costs each of them.

python -m benchmarks.compare --help

__main__.py     the command
rounds.py       one measurement, and all of them, interleaved
scenarios.py    what is asked for           backends.py    who answers
peers.py        the proxies, configured     balancer.py    lbctl, in its several positions
answers.py      is it the right answer?     wrk.py         the load generator
processes.py    starting, pinning, ending   procfs.py      what the kernel says of them
figures.py      medians and ratios          targets.py     what was promised
report.py chart.py screen.py                what people see
"""
