# docker build -t stagevar .                                                                          for the CPU
# docker build -t stagevar --build-arg TORCH=https://download.pytorch.org/whl/cu130 .                 for CUDA
# docker run -p 127.0.0.1:8000:8000 -e STAGEVAR_API_KEYS=secret stagevar                              and --gpus all
FROM python:3.11-slim

ARG TORCH=https://download.pytorch.org/whl/cpu

WORKDIR /opt/stagevar
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt --index-url "$TORCH" torch \
    && pip install --no-cache-dir -c constraints.txt '.[serve,text]'
COPY docker/entry.sh /usr/local/bin/stagevar-entry

RUN useradd --create-home stagevar
USER stagevar
ENV HF_HOME=/home/stagevar/models
VOLUME /home/stagevar/models
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=10s \
    CMD python -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["/bin/sh", "/usr/local/bin/stagevar-entry"]
