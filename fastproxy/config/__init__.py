"""What the owner wants: flags, environment and file as one frozen struct.

schema.py is the table of settings; units.py, address.py, backend.py and store_url.py read single values; document.py
reads files of any format; check.py compares settings with each other; load.py brings it all together. Who lives here
knows values and files, never a socket or an event loop.
"""
