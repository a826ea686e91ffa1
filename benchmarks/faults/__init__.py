"""The same faults for lbctl and its peers, under the same steady load, each from a fresh stack.

    make faults                                        everything; writes docs/benchmarks/faults.*
    make faults ARGS='--only lbctl,haproxy --rounds 3' some of it: the other rows stay as they are

What happened to requests is in `ledger`, who sends them in `load`, what is done to a stack in
`disturbances`, what a stack is in `stacks`, with lbctl in `ours` and the others in `peers`.
"""
