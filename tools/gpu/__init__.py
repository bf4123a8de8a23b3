"""What tools/gpu_run.py is made of: a list of long trainings on a machine with a GPU."""
