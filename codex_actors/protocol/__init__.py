"""What is said: pure data with Codex's wire names. No I/O, no actor, no clock."""
