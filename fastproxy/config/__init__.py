"""What the owner wants: flags, environment and file as one frozen struct."""
