"""The language model.

find      locates it on disk or on the hub, and reads its config
hub       downloads it
gguf      converts it from llama.cpp's format
outline   finds out without its weights whether it can be used
weights   compares a checkpoint's weights with the model's
blocks    finds its list of blocks
enter     runs the blocks after a hook point without those before it
dtype     finds out in which dtype this machine runs it faster
causal    refuses one that reads both ways
model     loads it, captures its residual stream, runs it with the stream replaced
losses    cross-entropy and KL divergence of logits, a few rows at a time
ordinary  tells its ordinary tokens from attention sinks and special tokens
errors    says in one line what is wrong
"""
