"""Accounts for every KV slot: before a run (plan), instead of one (replay) and during one (recording); and reports on it."""
