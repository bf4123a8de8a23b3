"""Programs that run in several processes or beside others: files, stopping, what a result was made
with.
"""
