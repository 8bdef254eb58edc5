# The submission: `docker run --rm -v IN:/input:ro -v OUT:/output crossmoda-grl` segments a folder of hrT2 scans.
# Online: docker build -t crossmoda-grl .        Offline: make wheelhouse, then docker build --network none ...
# For NVIDIA GPUs: --build-arg TORCH=cuda. See docs/container.md.

ARG BASE=python:3.11-slim-bookworm
# Compiles the networks for the CPU, if it has g++, as python:3.11-bookworm does. It is not part of the result.
ARG COMPILER=${BASE}

# --- The list of requirements. A stage of its own, so that the next stage is rebuilt only when the list changes. ---
FROM ${BASE} AS requirements
WORKDIR /build
COPY image/requirements.py pyproject.toml ./
# Further extras of pyproject.toml; the compose profile tune needs "tuning postgresql dashboard".
ARG EXTRAS=
RUN python3 requirements.py $EXTRAS >requirements.txt

# --- The packages. Rebuilt only when that list, requirements.hashed or the wheelhouse change. ---
FROM ${BASE} AS installed
# cpu: from PyTorch's own index, without CUDA. cuda: PyPI's build, with CUDA.
# If wheelhouse/ holds wheels, nothing is downloaded, and their torch is installed.
ARG TORCH=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
WORKDIR /build
# pip is installed outside of the environment that it fills, so that it is not in the image.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/crossmoda-grl/venv
COPY --from=requirements /build/requirements.txt ./
COPY requirements.hashed ./
# Every file must have a hash of requirements.hashed. pip comes first: it takes hashes from constraints since version 26.
RUN --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    set -eu; \
    from=; index=; \
    if ls /wheelhouse/*.whl >/dev/null 2>&1; then \
        from="--no-index --find-links /wheelhouse"; \
    else \
        case "$TORCH" in \
            cpu) index="--index-url https://download.pytorch.org/whl/cpu" ;; \
            cuda) ;; \
            *) echo "TORCH: expected cpu or cuda, got $TORCH; build with --build-arg TORCH=cpu" >&2; exit 2 ;; \
        esac; \
    fi; \
    sed -n '/^pip==/,/[^\\]$/p' requirements.hashed >pip.txt; \
    /opt/pip/bin/pip install --require-hashes $from -r pip.txt; \
    pip="/opt/pip/bin/pip --python /opt/crossmoda-grl/venv/bin/python"; \
    hashed="--require-hashes -c requirements.hashed"; \
    if [ -n "$index" ]; then $pip install --no-deps $hashed $index torch; fi; \
    $pip install $hashed $from -r requirements.txt; \
    $pip check

FROM installed AS packages
# Removes files that only serve to build or test the packages. Bytecode is compiled here, because the image is read-only
# at run time; unchecked, because the sources in the image do not change.
RUN set -eu; cd /opt/crossmoda-grl/venv/lib/python3*/site-packages; \
    rm -rf torch/include torch/share torch/test torch/lib/*_test.so pydicom/data/test_files; \
    find torch/bin -type f ! -name torch_shm_manager -delete; \
    find matplotlib mpmath networkx nibabel numpy scipy sympy -type d -name tests -prune -exec rm -rf {} +; \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/py312_' .; \
    chmod -R a+rX,go-w /opt/crossmoda-grl

# --- This project, apart from its packages: a change of the code makes a new layer of a few megabytes. ---
FROM packages AS project
COPY LICENSE README.md pyproject.toml setup.py ./
COPY challenge challenge
COPY crossmoda_grl crossmoda_grl
COPY evaluation evaluation
COPY pipeline pipeline
COPY weights weights
# NiiVue, which only `view` needs, comes from the wheelhouse, or from npm's registry, or from the one that is named here.
ARG NPM_CONFIG_REGISTRY=
RUN --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    set -eu; \
    cp /wheelhouse/niivue-*.umd.js pipeline/inference/viewer/static/ 2>/dev/null || true; \
    /opt/pip/bin/pip --python /opt/crossmoda-grl/venv/bin/python install \
        --no-deps --no-index --no-build-isolation --target /opt/app/code .; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/app/code
# Any user may read everything, whatever the file modes on the building machine.
RUN chmod -R a+rX,go-w /opt/app

# --- The networks, compiled for every x86 processor with AVX2; torch's headers are still there in `installed`. ---
FROM ${COMPILER} AS compiled
COPY --from=installed /opt/crossmoda-grl /opt/crossmoda-grl
COPY --from=project /opt/app /opt/crossmoda-grl
ENV PATH=/opt/crossmoda-grl/code/bin:/opt/crossmoda-grl/venv/bin:$PATH PYTHONPATH=/opt/crossmoda-grl/code
RUN set -eu; mkdir /opt/compiled; \
    if grep -qw avx2 /proc/cpuinfo && command -v g++ >/dev/null; then \
        for weights in /opt/crossmoda-grl/code/pipeline/weights/*/; do \
            crossmoda-grl compile --weights "$weights" --instruction-set AVX2 --out /opt/compiled; \
        done; \
    else \
        echo "networks stay uncompiled: COMPILER has no g++, or the processor no AVX2"; \
    fi; \
    chmod -R a+rX,go-w /opt/compiled

FROM ${BASE}
ARG BASE
LABEL org.opencontainers.image.title="crossmoda-grl" \
      org.opencontainers.image.description="Vestibular schwannoma and cochlea on hrT2 MRI: 3D ENet with gradient reversal" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"
# A volume that Docker makes has the modes of these folders, so any user can write to it.
RUN mkdir -m 755 /input /reference && mkdir -m 1777 /output /scores
COPY --from=packages /opt/crossmoda-grl /opt/crossmoda-grl
COPY --from=project /opt/app /opt/crossmoda-grl
COPY --from=compiled /opt/compiled /opt/crossmoda-grl/compiled
# USER and HOME: a user id without an account has neither, and libraries need both. Caches go to /tmp.
# MALLOC_*: glibc keeps large blocks instead of returning them after each layer, which halves the time on a CPU.
ENV PATH=/opt/crossmoda-grl/code/bin:/opt/crossmoda-grl/venv/bin:$PATH \
    PYTHONPATH=/opt/crossmoda-grl/code CROSSMODA_GRL_COMPILED=/opt/crossmoda-grl/compiled \
    HOME=/tmp USER=crossmoda MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LANG=C.UTF-8 \
    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864
WORKDIR /tmp
# 1000 is the first user on most Linux machines, so probably the owner of the mounted folders; --user sets another.
USER 1000:1000
ENTRYPOINT ["crossmoda-grl"]
CMD ["predict"]
