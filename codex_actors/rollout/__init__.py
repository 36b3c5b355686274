"""What is kept: JSONL files, one per thread. Peers: `reader`, `writer`; pure: `replay`, `truncation`, `policy`."""
