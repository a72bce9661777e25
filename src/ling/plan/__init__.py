"""What a run needs and how fast it goes, by counting: memory, communication, time, layouts."""
