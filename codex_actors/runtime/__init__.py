"""How actors talk: honest pykka on an event loop. The only package that knows pykka."""
