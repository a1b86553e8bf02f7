"""The memory policies that a scheduler can work on."""

from pagecli.kv.manager import KVManager
from pagecli.kv.reserved_manager import ReservedManager

KVMemory = KVManager | ReservedManager
