#!/bin/bash
#SBATCH --job-name=fgfi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --requeue
#SBATCH --signal=TERM@120
# One worker a node, on all of the node's GPUs:
#   sbatch configs/cluster/slurm.sh --flagfile=configs/kitti/shuffledet_0.5x.cfg --data_dir=kitti --output_dir=runs/a
# The folders have to be on a disk that all nodes share. A job that is requeued goes on where it stopped; 120 s
# before its time is up, Slurm sends SIGTERM, and the run saves and ends with exit code 143 (0: it is finished), which
# RequeueExit=143 in slurm.conf, or "scontrol requeue", puts back into the queue.
srun bash -c 'export TF_CONFIG=$(python -m fgfi_tf.training.cluster) && exec python scripts/train.py "$@"' train "$@"
