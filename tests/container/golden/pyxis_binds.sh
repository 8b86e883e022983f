srun \
  --container-image=/shared/images/train.sqsh \
  '--container-mounts=/tmp:/tmp:rw,/big data:/big data:rw,/sw:/opt/sw:ro,/shared/runs/demo-data:/shared/runs/demo-data:rw,/shared/runs/mgm:/shared/runs/mgm:rw' \
  --container-workdir=/shared/runs/mgm \
  --no-container-mount-home \
  --no-container-remap-root \
  --no-container-entrypoint \
  /opt/venv/bin/python
