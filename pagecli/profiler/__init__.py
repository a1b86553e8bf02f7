"""Where every KV slot goes: before a run (plan), instead of one (replay) and during one (recorder); and how it is shown."""
