# The environment of the pipeline and its code; not built where it was written (docs/scaling.md).
#   docker build -t grpo-pipeline .
#   docker run --gpus all --shm-size 8g grpo-pipeline dvc repro
# On Linux torch's wheels bring CUDA's libraries along; another BASE, such as
# nvidia/cuda:12.8.1-devel-ubuntu24.04 (Python 3.12), is for what compiles, such as DeepSpeed.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git tini \
 && { command -v python3 || apt-get install --yes --no-install-recommends python3 python3-venv; } \
 && rm -rf /var/lib/apt/lists/* \
 # a mounted checkout belongs to whoever made it
 && git config --system safe.directory '*' \
 # Ubuntu's image has a user of this number
 && { userdel --remove ubuntu || true; } \
 && useradd --uid 1000 --create-home grpo \
 && install --directory --owner grpo --group grpo /grpo /opt/venv

USER 1000:1000
WORKDIR /grpo
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/venv

# What is installed hangs on these two files alone: a change of the code installs nothing anew.
ARG EXTRAS=kubernetes,postgres,s3,serve
ARG PIP_EXTRA_INDEX_URL
COPY --chown=grpo:grpo pyproject.toml constraints.txt ./
RUN touch README.md \
 && pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt ".[${EXTRAS}]" \
 && rm -rf build ./*.egg-info

COPY --chown=grpo:grpo . .

# tini hands a signal on to all that runs, and collects what ends.
ENTRYPOINT ["tini", "-g", "--"]
CMD ["dvc", "repro"]
