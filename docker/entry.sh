#!/bin/sh
# Starts the server in a container. STAGEVAR_MODELS names the models, separated by spaces; STAGEVAR_API_KEYS holds the
# keys, separated by commas. Arguments are options of stagevar serve.
set -eu
for model in ${STAGEVAR_MODELS:-scenes}; do
    set -- --model "$model" "$@"
done
exec stagevar serve --host 0.0.0.0 --port 8000 "$@"
