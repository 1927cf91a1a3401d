#!/usr/bin/env bash
# An endpoint of Amazon SageMaker: write your account, role, image and bucket into the two JSON files first.
# The model is its folder's files, without a folder around them:
#   tar -czf model.tar.gz -C repository/minilm . && aws s3 cp model.tar.gz s3://bucket/minilm/model.tar.gz
set -euo pipefail
cd "$(dirname "$0")"
aws sagemaker create-model --cli-input-json file://create-model.json
aws sagemaker create-endpoint-config --cli-input-json file://create-endpoint-config.json
aws sagemaker create-endpoint --endpoint-name "${1:-heed}" --endpoint-config-name heed
