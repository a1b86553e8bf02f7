"""Tensor parallelism: one model over several processes of a host, each with a shard of the weights and of every KV block.

The driver has no rank and no weights. It plans steps as for one device (engine/, kv/ know nothing of ranks) and sends each as
one packed record (step_record.py) through memory that all processes share (group_memory.py). A rank (rank.py) moves the blocks,
computes its shard (model/shards.py) and adds partial sums with the others (csrc/cpu/rendezvous.cpp); the driver chooses tokens.
"""
