"""The data-plane shell: the one room that awaits sockets. exchange.py is the story."""
