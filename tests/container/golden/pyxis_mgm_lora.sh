srun \
  --container-image=/shared/images/train.sqsh \
  --container-mounts=/tmp:/tmp:rw,/shared/data/mgm:/shared/data/mgm:ro,/shared/hf:/shared/hf:ro,/shared/models/mgm-2b:/shared/models/mgm-2b:ro,/shared/runs/mgm:/shared/runs/mgm:rw,/local/cache:/local/cache:rw \
  --container-workdir=/shared/runs/mgm \
  --no-container-mount-home \
  --no-container-remap-root \
  --no-container-entrypoint \
  /opt/venv/bin/python
