# One node in a container.
#
#   docker build -t flnode .                          with the learner (torch), for workers and learning servers
#   docker build -t flnode --build-arg EXTRAS= .      without it, for validators and observers
#   docker run --rm -v flnode:/data flnode init /data --network dev --dev-key 0 --role validator
#   docker run --rm -v flnode:/data -p 9000:9000 flnode

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=learner
WORKDIR /source
COPY constraints.txt ./
RUN python3 -m venv /opt/flnode \
    && /opt/flnode/bin/pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY chain ./chain
COPY cli ./cli
COPY configs ./configs
COPY learner ./learner
COPY node ./node
RUN /opt/flnode/bin/pip install --no-cache-dir --no-build-isolation --constraint constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
RUN useradd --uid 10001 --create-home flnode && install -d -o flnode -g flnode -m 0700 /data
COPY --from=build /opt/flnode /opt/flnode
ENV PATH=/opt/flnode/bin:${PATH} FLNODE_CONFIG=/data
USER 10001
VOLUME /data
EXPOSE 9000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["flnode", "status", "--json"]
ENTRYPOINT ["flnode"]
CMD ["start"]
