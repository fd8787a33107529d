"""The language model.

find      locates it on disk or on the hub, and reads its config
model     loads it, captures its residual stream, runs it with the stream replaced
ordinary  tells its ordinary tokens from attention sinks and special tokens
"""
