#!/bin/sh
# Runs in %post of both images: puts the locked packages into /opt/venv.
# A folder bound at /mnt may hold what the building machine uses itself: pip.conf, pip's cache and
# the certificates of its proxy. Nothing of it stays in the image.
set -eu

lock=/opt/hpcjobs/lock.txt
venv=/opt/venv

[ ! -f /mnt/pip.conf ] || export PIP_CONFIG_FILE=/mnt/pip.conf
python3 -m venv "$venv"

# What hpcjobs.train, data and evaluate import; the versions come from the lock. Compiling is left
# to all processors below.
"$venv/bin/pip" install --quiet --no-compile --constraint "$lock" \
  torch deepspeed transformers peft accelerate safetensors tokenizers pillow numpy
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# What no training reads. There are no headers because there is no compiler: hpcjobs uses none of the
# operators that DeepSpeed would build at the start.
rm -rf "$site/torch/test" "$site/torch/include"
find "$site/torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
find "$site" -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} +

# The image is read-only: what is not compiled now would be compiled at every start.
"$venv/bin/python" -m compileall -q -j 0 "$site" || true
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc /usr/share/man /usr/share/locale /root/.cache
