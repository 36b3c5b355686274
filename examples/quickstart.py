"""Start a thread, give it two inputs, look at what it kept."""

from codex_actors import Config, ThreadManager

print("The embedded model answers: no network, no key.")

with ThreadManager() as manager:
    new = manager.start_thread(Config(base_instructions="Be brief.")).get()
    thread = new.thread
    for text in ("Hello.", "And again."):
        result = thread.run(text).get()
        print(f"{text} -> {result.text} [{result.status}]")
    print(f"threads: {len(manager.list_thread_ids().get())}")
    print(f"tokens: {thread.total_token_usage().total_tokens}")
