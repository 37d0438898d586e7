FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements/build.txt requirements/supply.txt requirements/serve.txt requirements/fused.txt requirements/
RUN python -m venv /tools \
 && /tools/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt -r requirements/supply.txt \
 && python -m venv --without-pip /opt/unrolled \
 && /tools/bin/pip --python /opt/unrolled/bin/python install --no-cache-dir --require-hashes -r requirements/serve.txt
# LLVM makes the kernels; `--build-arg KERNELS=no` leaves it out, for half the size, and NumPy computes
ARG KERNELS=yes
RUN [ "$KERNELS" = no ] || /tools/bin/pip --python /opt/unrolled/bin/python install --no-cache-dir --require-hashes \
      -r requirements/fused.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY rnn_engine rnn_engine
RUN /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /tools/bin/pip --python /opt/unrolled/bin/python install --no-cache-dir --no-deps /dist/*.whl
# compiled for this processor; for another one they are compiled when the service starts, into /tmp
RUN [ "$KERNELS" = no ] || UNROLLED_KERNEL=fused /opt/unrolled/bin/unrolled inspect --cpu
# the bill of materials; and without the packages' own tests, which nothing imports
RUN /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
      --output-file /opt/unrolled/sbom.json /opt/unrolled/bin/python \
 && find /opt/unrolled/lib -type d -name tests -prune -exec rm -r {} +

FROM python:3.13-slim
RUN groupadd --gid 10001 unrolled \
 && useradd --uid 10001 --gid unrolled --no-create-home --shell /usr/sbin/nologin unrolled \
 && mkdir /models && chown unrolled: /models
COPY --from=build /opt/unrolled /opt/unrolled
ENV PATH=/opt/unrolled/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UNROLLED_HOST=0.0.0.0 \
    UNROLLED_MODELS=/models
USER 10001:10001
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python", "-m", "app.health"]
CMD ["unrolled", "serve"]
