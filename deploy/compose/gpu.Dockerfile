# The image for nodes with GPUs, on top of the other: the models of this machine, and what reads its GPUs.
FROM blatam-kv
USER root
RUN pip install --no-cache-dir "blatam-kv[local,gpu]"
USER 10001
