"""Jobs on engines elsewhere: DLC, Kubernetes and Slurm."""
