"""What other programs start their trainings with, turned into recipes."""
