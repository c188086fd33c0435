"""Jobs on engines elsewhere: DLC, Kubernetes, Slurm, and a component of pipelines."""
