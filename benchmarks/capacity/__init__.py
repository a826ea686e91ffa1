"""What one worker carries, and what connections and backends cost: the figures to plan by.

See __main__.py.
"""
