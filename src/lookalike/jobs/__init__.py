"""Jobs on engines elsewhere: DLC and Slurm."""
