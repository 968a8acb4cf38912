# One node in a container; docs/CONTAINERS.md says more.
#
#   docker build -t flnode .                                  with the learner (torch), for workers and learning servers
#   docker build -t flnode-validator --build-arg EXTRAS= .    without it, for validators and observers
#
# BASE is any image with Python 3.11 or newer and its venv module. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are pip's own
# settings. Wheels in build/wheels (`make wheels`) are preferred; with PIP_NO_INDEX=1 nothing else is used.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=learner
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_CONSTRAINT=/source/constraints.txt PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
# The pattern matches nothing where there are no wheels, which is no error beside a file that exists.
COPY constraints.txt build/wheel[s] /wheels/
COPY constraints.txt pyproject.toml ./
# One library, fastecdsa, comes as source; its wheel, where there is one, needs no compiler.
# hadolint ignore=DL3008
RUN ls /wheels/fastecdsa-*.whl 2>/dev/null \
    || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev libgmp-dev \
    && rm -rf /var/lib/apt/lists/*; }
# What flnode needs comes before its source, so that a changed source takes seconds to build again.
RUN python3 -m venv /opt/flnode \
    && python3 -c 'import sys, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [each for name in sys.argv[1:] if name for each in project["optional-dependencies"][name]]; \
print("hatchling", *project["dependencies"], *extras, sep="\n")' "${EXTRAS}" > requirements.txt \
    && /opt/flnode/bin/pip install --no-cache-dir --requirement requirements.txt
COPY README.md LICENSE ./
COPY chain ./chain
COPY cli ./cli
COPY configs ./configs
COPY learner ./learner
COPY node ./node
RUN /opt/flnode/bin/pip install --no-cache-dir --no-build-isolation --no-deps .

FROM ${BASE}
RUN useradd --uid 10001 --create-home flnode && install -d -o flnode -g flnode -m 0700 /data
COPY --from=build /opt/flnode /opt/flnode
ENV PATH=/opt/flnode/bin:${PATH} FLNODE_CONFIG=/data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 9000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["flnode", "status", "--json"]
ENTRYPOINT ["flnode"]
CMD ["start"]
