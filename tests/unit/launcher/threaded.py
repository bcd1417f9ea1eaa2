"""A module that starts a thread when it is imported."""

import threading

if __name__ != "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
