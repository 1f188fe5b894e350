ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends prometheus wget \
 && install -d -o nobody -g nogroup /prometheus
ENTRYPOINT ["prometheus"]
