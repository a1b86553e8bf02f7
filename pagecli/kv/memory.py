"""The memory policies that a scheduler can work on."""

from pagecli.kv.baselines.reserved_manager import ReservedManager
from pagecli.kv.manager import KVManager

KVMemory = KVManager | ReservedManager
